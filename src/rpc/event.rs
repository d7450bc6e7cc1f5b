use std::{borrow::Cow, fmt, time::Duration};

use super::Level;

/// A moment in the life of an RPC, predefined or custom.
///
/// The predefined events are constants; [`Stats`](crate::Stats) gives their times. A user defines
/// further ones as constants and records them through the [`RpcInfo`](crate::RpcInfo):
///
/// ```
/// use tower_tracer::{Event, Level};
///
/// static CACHE_MISS: Event = Event::new("cache_miss", Level::Base);
///
/// assert_eq!(CACHE_MISS.name(), "cache_miss");
/// assert_eq!(Event::RPC_START.to_string(), "rpc_start");
/// ```
///
/// An RPC records each event once; later records of the same event are ignored. Two user-defined
/// events are the same event when they have the same name.
#[derive(Clone, Copy)]
pub struct Event {
    name: &'static str,
    level: Level,
    /// The index of its time in the record; `CUSTOM` for a custom event.
    slot: u8,
}

const CUSTOM: u8 = u8::MAX;

macro_rules! predefined {
    ($($(#[$doc:meta])* $slot:literal $constant:ident $name:literal $level:ident)*) => {
        impl Event {
            $(
                $(#[$doc])*
                pub const $constant: Self =
                    Self { name: $name, level: Level::$level, slot: $slot };
            )*

            /// All predefined events. Their times give the order in which they happened.
            pub const PREDEFINED: &'static [Self] = &[$(Self::$constant),*];
        }
    };
}

predefined! {
    /// The request reached the layer.
    0 RPC_START "rpc_start" Base
    /// The first data of the request's body passed.
    1 REQUEST_FIRST_BYTE "request_first_byte" Detailed
    /// The first message of the request was complete.
    2 REQUEST_FIRST_MESSAGE "request_first_message" Detailed
    /// The latest data of the request's body passed; the last one once [`HALF_CLOSE`](Self::HALF_CLOSE) is there.
    3 REQUEST_LAST_BYTE "request_last_byte" Detailed
    /// The end of the request's body was seen: the client sends no more.
    4 HALF_CLOSE "half_close" Detailed
    /// The handler was entered: recorded by a [`StageLayer`](crate::service::StageLayer) around it.
    5 SERVER_HANDLE_START "server_handle_start" Detailed
    /// The handler returned: recorded by a [`StageLayer`](crate::service::StageLayer) around it.
    6 SERVER_HANDLE_FINISH "server_handle_finish" Detailed
    /// The response's headers passed: the inner service's future resolved.
    7 RESPONSE_HEADERS "response_headers" Detailed
    /// The first data of the response's body passed.
    8 RESPONSE_FIRST_BYTE "response_first_byte" Detailed
    /// The first message of the response was complete.
    9 RESPONSE_FIRST_MESSAGE "response_first_message" Detailed
    /// The latest data of the response's body passed; the last one once the RPC has ended.
    10 RESPONSE_LAST_BYTE "response_last_byte" Detailed
    /// The response's trailers passed.
    11 TRAILERS "trailers" Detailed
    /// The RPC is over; recorded before any tracer's `finish` is called.
    12 RPC_FINISH "rpc_finish" Base
}

impl Event {
    /// How many predefined events there are.
    pub(crate) const SLOTS: usize = Self::PREDEFINED.len();

    /// Defines a custom event.
    ///
    /// It is recorded if the RPC's level is at least `level`.
    #[must_use]
    pub const fn new(name: &'static str, level: Level) -> Self {
        Self {
            name,
            level,
            slot: CUSTOM,
        }
    }

    /// The name, such as `rpc_start`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The least level of an RPC at which this event is recorded.
    #[must_use]
    pub const fn level(self) -> Level {
        self.level
    }

    /// Whether this is one of the [predefined](Self::PREDEFINED) events.
    #[must_use]
    pub const fn is_predefined(self) -> bool {
        self.slot != CUSTOM
    }

    pub(crate) fn slot(self) -> Option<usize> {
        self.is_predefined().then_some(self.slot as usize)
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.slot == other.slot && self.name == other.name
    }
}

impl Eq for Event {}

impl std::hash::Hash for Event {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.slot.hash(state);
        self.name.hash(state);
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({})", self.name)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// What an event says about the RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Severity {
    /// All is well.
    #[default]
    Info,
    /// Worth a look.
    Warn,
    /// Something failed.
    Error,
}

/// An event that was recorded: its time, severity and text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedEvent {
    /// Which event.
    pub event: Event,
    /// When, as an offset from the start of the RPC.
    pub at: Duration,
    /// What it says about the RPC.
    pub status: Severity,
    /// Free text of who recorded it.
    pub info: Option<Cow<'static, str>>,
}

#[cfg(test)]
mod tests {
    use super::Event;

    #[test]
    fn each_predefined_event_has_a_slot_and_a_name_of_its_own() {
        for (index, event) in Event::PREDEFINED.iter().enumerate() {
            assert_eq!(event.slot(), Some(index));
            assert!(
                Event::PREDEFINED[..index]
                    .iter()
                    .all(|e| e.name() != event.name())
            );
        }
    }
}
