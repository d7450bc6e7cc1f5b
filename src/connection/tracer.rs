//! The trait, several tracers as one, and a tracer without its type.

use std::{any::type_name, fmt, sync::Arc};

use super::ConnectionInfo;
use crate::panics::contain;

/// Sees connections open and close. This is what a user implements.
///
/// What [`opened`](Self::opened) returns is the tracer's state of this connection. [`closed`](Self::closed)
/// gets it back exactly once, however the connection ends. A panic in a hook is contained and
/// [counted](crate::tracer::contained_panics); a tracer whose `opened` panicked gets no `closed`.
///
/// ```
/// use tower_tracer::connection::{ConnectionInfo, ConnectionTracer};
///
/// /// Prints each connection that failed.
/// struct Failures;
///
/// impl ConnectionTracer for Failures {
///     type State = ();
///
///     fn opened(&self, _: &ConnectionInfo) {}
///
///     fn closed(&self, (): (), connection: &ConnectionInfo) {
///         if connection.end().is_some_and(|end| end.is_failure()) {
///             eprintln!("{connection}");
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a tracer of connections",
    note = "implement `tower_tracer::connection::ConnectionTracer` for it: a `State`, `opened` and `closed`"
)]
pub trait ConnectionTracer: Send + Sync + 'static {
    /// What a tracer carries from `opened` to `closed`; `()` if nothing is needed.
    type State: Send + 'static;

    /// Called once: on a server when a connection is accepted, on a client when the attempt to connect begins.
    fn opened(&self, connection: &ConnectionInfo) -> Self::State;

    /// Called at most once. On a client: it is connected. On a server: the transport has taken the connection,
    /// so that the TLS handshake, if there is one, has succeeded.
    fn ready(&self, state: &mut Self::State, connection: &ConnectionInfo) {
        let _ = (state, connection);
    }

    /// Called once, when the connection is dropped. [`ConnectionInfo::end`] says why.
    ///
    /// It is called in a `drop`, on any thread: it must not block.
    fn closed(&self, state: Self::State, connection: &ConnectionInfo);
}

/// A [`ConnectionTracer`] of any type. A clone is the same tracer.
#[derive(Clone)]
pub struct BoxConnectionTracer(Arc<dyn Opens>);

/// What a [`BoxConnectionTracer`] has to know of an open connection.
pub struct BoxState(Option<Box<dyn Watches>>);

impl BoxConnectionTracer {
    /// This tracer without its type.
    pub fn new(tracer: impl ConnectionTracer) -> Self {
        Self(Arc::new(tracer))
    }
}

/// The state has its tracer.
impl BoxState {
    pub(super) fn ready(&mut self, connection: &ConnectionInfo) {
        if let Some(watching) = &mut self.0 {
            watching.ready(connection);
        }
    }

    /// Once: a second call does nothing.
    pub(super) fn closed(&mut self, connection: &ConnectionInfo) {
        if let Some(watching) = self.0.take() {
            watching.closed(connection);
        }
    }
}

trait Opens: Send + Sync {
    fn open(self: Arc<Self>, connection: &ConnectionInfo) -> Option<Box<dyn Watches>>;
    fn name(&self) -> &'static str;
}

trait Watches: Send {
    fn ready(&mut self, connection: &ConnectionInfo);
    fn closed(self: Box<Self>, connection: &ConnectionInfo);
}

struct Watching<T: ConnectionTracer> {
    state: T::State,
    tracer: Arc<T>,
}

impl<T: ConnectionTracer> Opens for T {
    fn open(self: Arc<Self>, connection: &ConnectionInfo) -> Option<Box<dyn Watches>> {
        let state = contain::<T, _>("opened", || self.opened(connection))?;
        Some(Box::new(Watching {
            state,
            tracer: self,
        }))
    }

    fn name(&self) -> &'static str {
        type_name::<T>()
    }
}

impl<T: ConnectionTracer> Watches for Watching<T> {
    fn ready(&mut self, connection: &ConnectionInfo) {
        contain::<T, _>("ready", || self.tracer.ready(&mut self.state, connection));
    }

    fn closed(self: Box<Self>, connection: &ConnectionInfo) {
        let Self { state, tracer } = *self;
        contain::<T, _>("closed", || tracer.closed(state, connection));
        contain::<T, _>("drop", || drop(tracer));
    }
}

impl ConnectionTracer for BoxConnectionTracer {
    type State = BoxState;

    fn opened(&self, connection: &ConnectionInfo) -> BoxState {
        BoxState(Arc::clone(&self.0).open(connection))
    }

    fn ready(&self, state: &mut BoxState, connection: &ConnectionInfo) {
        state.ready(connection);
    }

    fn closed(&self, mut state: BoxState, connection: &ConnectionInfo) {
        state.closed(connection);
    }
}

impl fmt::Debug for BoxConnectionTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoxConnectionTracer")
            .field(&self.0.name())
            .finish()
    }
}

impl fmt::Debug for BoxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoxState").field(&self.0.is_some()).finish()
    }
}

impl ConnectionTracer for () {
    type State = ();

    fn opened(&self, _: &ConnectionInfo) {}

    fn closed(&self, (): (), _: &ConnectionInfo) {}
}

impl<T: ConnectionTracer> ConnectionTracer for Option<T> {
    type State = Option<T::State>;

    fn opened(&self, connection: &ConnectionInfo) -> Self::State {
        self.as_ref().map(|tracer| tracer.opened(connection))
    }

    fn ready(&self, state: &mut Self::State, connection: &ConnectionInfo) {
        if let (Some(tracer), Some(state)) = (self, state) {
            tracer.ready(state, connection);
        }
    }

    fn closed(&self, state: Self::State, connection: &ConnectionInfo) {
        if let (Some(tracer), Some(state)) = (self, state) {
            tracer.closed(state, connection);
        }
    }
}

impl<T: ConnectionTracer> ConnectionTracer for Arc<T> {
    type State = T::State;

    fn opened(&self, connection: &ConnectionInfo) -> Self::State {
        (**self).opened(connection)
    }

    fn ready(&self, state: &mut Self::State, connection: &ConnectionInfo) {
        (**self).ready(state, connection);
    }

    fn closed(&self, state: Self::State, connection: &ConnectionInfo) {
        (**self).closed(state, connection);
    }
}

macro_rules! tuple {
    ($($T:ident $index:tt),+; $($back:tt)+) => {
        /// All see a connection open in order, and close in reverse order; each hook of each is contained.
        impl<$($T: ConnectionTracer),+> ConnectionTracer for ($($T,)+) {
            type State = ($(Option<$T::State>,)+);

            fn opened(&self, connection: &ConnectionInfo) -> Self::State {
                ($(contain::<$T, _>("opened", || self.$index.opened(connection)),)+)
            }

            fn ready(&self, state: &mut Self::State, connection: &ConnectionInfo) {
                $(if let Some(state) = &mut state.$index {
                    contain::<$T, _>("ready", || self.$index.ready(state, connection));
                })+
            }

            fn closed(&self, state: Self::State, connection: &ConnectionInfo) {
                $(if let Some(state) = state.$back {
                    close(&self.$back, state, connection);
                })+
            }
        }
    };
}

fn close<T: ConnectionTracer>(tracer: &T, state: T::State, connection: &ConnectionInfo) {
    contain::<T, _>("closed", || tracer.closed(state, connection));
}

tuple! { A 0; 0 }
tuple! { A 0, B 1; 1 0 }
tuple! { A 0, B 1, C 2; 2 1 0 }
tuple! { A 0, B 1, C 2, D 3; 3 2 1 0 }
tuple! { A 0, B 1, C 2, D 3, E 4; 4 3 2 1 0 }
tuple! { A 0, B 1, C 2, D 3, E 4, F 5; 5 4 3 2 1 0 }
tuple! { A 0, B 1, C 2, D 3, E 4, F 5, G 6; 6 5 4 3 2 1 0 }
tuple! { A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7; 7 6 5 4 3 2 1 0 }
