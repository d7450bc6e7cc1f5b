//! Several tracers as one, and one tracer behind a pointer.

use std::sync::Arc;

use super::{Candidate, RequestParts, Scopes, StreamEvent, Tracer};
use crate::{
    panics::contain,
    rpc::{Level, RpcInfo, Scope},
};

/// No tracer: the record is made, for handlers and callers to read.
impl Tracer for () {
    type State = ();

    #[inline]
    fn start(&self, _: &RpcInfo, _: &mut RequestParts<'_>) {}

    #[inline]
    fn finish(&self, (): (), _: &RpcInfo) {}
}

/// `None` declines every RPC. To make a record also then, put `()` beside it: `((), optional)`.
impl<T: Tracer> Tracer for Option<T> {
    type State = Option<T::State>;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Self::State {
        self.as_ref().map(|tracer| tracer.start(rpc, request))
    }

    fn finish(&self, state: Self::State, rpc: &RpcInfo) {
        if let (Some(tracer), Some(state)) = (self, state) {
            tracer.finish(state, rpc);
        }
    }

    fn discard(&self, state: Self::State) {
        if let (Some(tracer), Some(state)) = (self, state) {
            tracer.discard(state);
        }
    }

    fn level(&self) -> Level {
        self.as_ref().map_or(Level::Disabled, Tracer::level)
    }

    fn wants_events(&self) -> bool {
        self.as_ref().is_some_and(Tracer::wants_events)
    }

    fn on_event(&self, state: &mut Self::State, rpc: &RpcInfo, event: &StreamEvent<'_>) {
        if let (Some(tracer), Some(state)) = (self, state) {
            tracer.on_event(state, rpc, event);
        }
    }

    fn progress(&self, state: &mut Self::State, rpc: &RpcInfo) {
        if let (Some(tracer), Some(state)) = (self, state) {
            tracer.progress(state, rpc);
        }
    }

    fn scope(&self, state: &Self::State, rpc: &RpcInfo) -> Option<Arc<dyn Scope>> {
        self.as_ref()?.scope(state.as_ref()?, rpc)
    }

    fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<Self::State> {
        Some(Some(self.as_ref()?.try_start(candidate)?))
    }
}

macro_rules! pointer {
    ($($pointer:ident)*) => {$(
        impl<T: Tracer + ?Sized> Tracer for $pointer<T> {
            type State = T::State;

            fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Self::State {
                (**self).start(rpc, request)
            }

            fn finish(&self, state: Self::State, rpc: &RpcInfo) {
                (**self).finish(state, rpc);
            }

            fn discard(&self, state: Self::State) {
                (**self).discard(state);
            }

            fn level(&self) -> Level {
                (**self).level()
            }

            fn wants_events(&self) -> bool {
                (**self).wants_events()
            }

            fn on_event(&self, state: &mut Self::State, rpc: &RpcInfo, event: &StreamEvent<'_>) {
                (**self).on_event(state, rpc, event);
            }

            fn progress(&self, state: &mut Self::State, rpc: &RpcInfo) {
                (**self).progress(state, rpc);
            }

            fn scope(&self, state: &Self::State, rpc: &RpcInfo) -> Option<Arc<dyn Scope>> {
                (**self).scope(state, rpc)
            }

            fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<Self::State> {
                (**self).try_start(candidate)
            }
        }
    )*};
}

pointer! { Arc Box }

/// The level of one of several.
fn level_of<T: Tracer>(tracer: &T) -> Level {
    contain::<T, _>("level", || tracer.level()).unwrap_or(Level::Disabled)
}

/// Whether one of several wants events.
fn wants_events<T: Tracer>(tracer: &T) -> bool {
    contain::<T, _>("wants_events", || tracer.wants_events()).unwrap_or(false)
}

/// Reports an event to one of several, if it wants events.
fn report<T: Tracer>(tracer: &T, state: &mut T::State, rpc: &RpcInfo, event: &StreamEvent<'_>) {
    contain::<T, _>("event", || {
        if tracer.wants_events() {
            tracer.on_event(state, rpc, event);
        }
    });
}

fn progress<T: Tracer>(tracer: &T, state: &mut T::State, rpc: &RpcInfo) {
    contain::<T, _>("progress", || tracer.progress(state, rpc));
}

/// All start in order and finish in reverse order; each hook of each is contained. An empty one
/// declines every RPC.
impl<T: Tracer> Tracer for Vec<T> {
    type State = Vec<Option<T::State>>;

    fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Self::State {
        let start = |tracer: &T| contain::<T, _>("start", || tracer.start(rpc, request));
        self.iter().map(start).collect()
    }

    fn finish(&self, mut states: Self::State, rpc: &RpcInfo) {
        for tracer in self.iter().take(states.len()).rev() {
            if let Some(state) = states.pop().flatten() {
                finish(tracer, state, rpc);
            }
        }
    }

    fn discard(&self, mut states: Self::State) {
        for tracer in self.iter().take(states.len()).rev() {
            if let Some(state) = states.pop().flatten() {
                discard(tracer, state);
            }
        }
    }

    fn level(&self) -> Level {
        let levels = self.iter().map(level_of);
        levels.max().unwrap_or(Level::Disabled)
    }

    fn wants_events(&self) -> bool {
        self.iter().any(wants_events)
    }

    fn on_event(&self, states: &mut Self::State, rpc: &RpcInfo, event: &StreamEvent<'_>) {
        for (tracer, state) in self.iter().zip(states) {
            if let Some(state) = state {
                report(tracer, state, rpc, event);
            }
        }
    }

    fn progress(&self, states: &mut Self::State, rpc: &RpcInfo) {
        for (tracer, state) in self.iter().zip(states) {
            if let Some(state) = state {
                progress(tracer, state, rpc);
            }
        }
    }

    fn scope(&self, states: &Self::State, rpc: &RpcInfo) -> Option<Arc<dyn Scope>> {
        let mut scopes = Scopes::default();
        for (tracer, state) in self.iter().zip(states) {
            scopes.push_from(tracer, state.as_ref(), rpc);
        }
        scopes.into_scope()
    }

    fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<Self::State> {
        let mut states = Vec::new();
        for (index, tracer) in self.iter().enumerate() {
            let state = contain::<T, _>("try_start", || tracer.try_start(candidate)).flatten();
            if state.is_some() && states.is_empty() {
                // Nothing is allocated until one takes part.
                states.reserve_exact(self.len());
                states.resize_with(index, || None);
            }
            if state.is_some() || !states.is_empty() {
                states.push(state);
            }
        }
        (!states.is_empty()).then_some(states)
    }
}

fn finish<T: Tracer>(tracer: &T, state: T::State, rpc: &RpcInfo) {
    contain::<T, _>("finish", || tracer.finish(state, rpc));
}

fn discard<T: Tracer>(tracer: &T, state: T::State) {
    contain::<T, _>("discard", || tracer.discard(state));
}

macro_rules! tuple {
    ($(($($tracer:ident $index:tt),+ ; $($reversed:tt),+))*) => {$(
        /// All start in order and finish in reverse order; each hook of each is contained.
        impl<$($tracer: Tracer),+> Tracer for ($($tracer,)+) {
            type State = ($(Option<$tracer::State>,)+);

            fn start(&self, rpc: &RpcInfo, request: &mut RequestParts<'_>) -> Self::State {
                ($(contain::<$tracer, _>("start", || self.$index.start(rpc, request)),)+)
            }

            #[inline]
            fn finish(&self, mut state: Self::State, rpc: &RpcInfo) {
                $(
                    if let Some(state) = state.$reversed.take() {
                        finish(&self.$reversed, state, rpc);
                    }
                )+
            }

            fn discard(&self, mut state: Self::State) {
                $(
                    if let Some(state) = state.$reversed.take() {
                        discard(&self.$reversed, state);
                    }
                )+
            }

            fn level(&self) -> Level {
                let level = Level::Disabled;
                $(let level = level.max(level_of(&self.$index));)+
                level
            }

            fn wants_events(&self) -> bool {
                $(wants_events(&self.$index))||+
            }

            fn on_event(&self, state: &mut Self::State, rpc: &RpcInfo, event: &StreamEvent<'_>) {
                $(
                    if let Some(state) = &mut state.$index {
                        report(&self.$index, state, rpc, event);
                    }
                )+
            }

            fn progress(&self, state: &mut Self::State, rpc: &RpcInfo) {
                $(
                    if let Some(state) = &mut state.$index {
                        progress(&self.$index, state, rpc);
                    }
                )+
            }

            fn scope(&self, state: &Self::State, rpc: &RpcInfo) -> Option<Arc<dyn Scope>> {
                let mut scopes = Scopes::default();
                $(scopes.push_from(&self.$index, state.$index.as_ref(), rpc);)+
                scopes.into_scope()
            }

            #[inline]
            fn try_start(&self, candidate: &mut Candidate<'_>) -> Option<Self::State> {
                let state =
                    ($(contain::<$tracer, _>("try_start", || self.$index.try_start(candidate)).flatten(),)+);
                let any = $(state.$index.is_some())||+;
                any.then_some(state)
            }
        }
    )*};
}

tuple! {
    (A 0; 0)
    (A 0, B 1; 1, 0)
    (A 0, B 1, C 2; 2, 1, 0)
    (A 0, B 1, C 2, D 3; 3, 2, 1, 0)
    (A 0, B 1, C 2, D 3, E 4; 4, 3, 2, 1, 0)
    (A 0, B 1, C 2, D 3, E 4, F 5; 5, 4, 3, 2, 1, 0)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6; 6, 5, 4, 3, 2, 1, 0)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7; 7, 6, 5, 4, 3, 2, 1, 0)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8; 8, 7, 6, 5, 4, 3, 2, 1, 0)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9; 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10; 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11;
        11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
}
