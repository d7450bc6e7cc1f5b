//! Tracers that are made of other tracers. They nest as they are written:
//! `tracer.only_failed().filter(wanted)` asks the filter first.

/// Hooks that forward to the inner tracer.
macro_rules! inner {
    ($($hook:ident)*) => {$(inner!(@ $hook);)*};
    (@ start) => {
        fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Self::State {
            self.inner.start(rpc, request)
        }
    };
    (@ finish) => {
        fn finish(&self, state: Self::State, rpc: &RpcInfo) {
            self.inner.finish(state, rpc);
        }
    };
    (@ rest) => {
        fn discard(&self, state: Self::State) {
            self.inner.discard(state);
        }

        fn level(&self) -> Level {
            self.inner.level()
        }

        fn wants_events(&self) -> bool {
            self.inner.wants_events()
        }

        fn on_event(&self, state: &mut Self::State, rpc: &RpcInfo, event: &StreamEvent<'_>) {
            self.inner.on_event(state, rpc, event);
        }

        fn progress(&self, state: &mut Self::State, rpc: &RpcInfo) {
            self.inner.progress(state, rpc);
        }

        fn scope(&self, state: &Self::State, rpc: &RpcInfo) -> Option<Arc<dyn Scope>> {
            self.inner.scope(state, rpc)
        }
    };
}

mod either;
mod filter;
mod finish_if;
mod on_finish;
mod reload;

pub use either::Either;
pub use filter::{Filter, InvalidRatio};
pub use finish_if::FinishIf;
pub use on_finish::{OnFinish, on_finish};
pub use reload::Reload;
