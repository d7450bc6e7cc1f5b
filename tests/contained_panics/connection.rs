//! A connection's tracer that panics changes nothing for the connection and for the other tracers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tower_tracer::{
    connection::{Acceptor, BoxConnectionTracer, ConnectionInfo, ConnectionTracer},
    testing::RecordingTracer,
    tracer::contained_panics,
};

use crate::{alone, scripted::panic_on_purpose};

/// Counts, and panics in the hook of this name.
#[derive(Clone)]
struct Panics {
    hook: &'static str,
    opened: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

impl Panics {
    fn in_hook(hook: &'static str) -> Self {
        Self {
            hook,
            opened: Arc::default(),
            closed: Arc::default(),
        }
    }

    fn called(&self, hook: &str) {
        if self.hook == hook {
            panic_on_purpose();
        }
    }
}

impl ConnectionTracer for Panics {
    type State = ();

    fn opened(&self, _: &ConnectionInfo) {
        self.called("opened");
        self.opened.fetch_add(1, SeqCst);
    }

    fn ready(&self, (): &mut (), _: &ConnectionInfo) {
        self.called("ready");
    }

    fn closed(&self, (): (), _: &ConnectionInfo) {
        self.closed.fetch_add(1, SeqCst);
        self.called("closed");
    }
}

#[tokio::test]
async fn each_hook_of_each_tracer_is_contained() {
    let _alone = alone();
    let before = contained_panics();
    let (a, b, c) = (
        Panics::in_hook("opened"),
        Panics::in_hook("ready"),
        Panics::in_hook("closed"),
    );
    let last = RecordingTracer::new();
    let tracers = Arc::new((
        a.clone(),
        Some(b.clone()),
        (BoxConnectionTracer::new(c.clone()), None::<()>),
        last.clone(),
    ));
    let acceptor = Acceptor::new(tracers);
    let (one, _other) = tokio::io::duplex(64);
    let io = acceptor.accept(one);
    io.set_ready();
    io.set_ready();
    drop(io);
    assert_eq!(
        last.connection_log(),
        ["opened server", "ready server", "closed server closed"]
    );
    let counts = |tracer: &Panics| (tracer.opened.load(SeqCst), tracer.closed.load(SeqCst));
    assert_eq!(
        (counts(&a), counts(&b), counts(&c)),
        ((0, 0), (1, 1), (1, 1))
    );
    assert_eq!(contained_panics() - before, 3);
}
