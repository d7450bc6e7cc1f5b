//! What an error and its causes mean.

use std::{
    any::Any,
    error::Error,
    fmt::{self, Write as _},
    iter,
    sync::Arc,
};

use crate::{
    config::AsError,
    panics::contain,
    rpc::{Code, Ending},
};

/// What an error and its causes say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ErrorInfo {
    pub(super) code: Option<Code>,
    /// More than that it failed: a reset, a deadline.
    pub(super) ending: Option<Ending>,
    pub(super) text: String,
}

/// Views a value as an error of type `E`, if it is one.
///
/// The compiler does not say whether a type parameter is an error, and a bound `Into<BoxError>`
/// would not help: an error has to pass unchanged, and if its `From` makes another error of it,
/// that one cannot be made from the box again. So the layer knows the types that matter, and a user
/// names others.
pub(crate) fn view_as<E: Error + 'static>(value: &dyn Any) -> Option<&(dyn Error + 'static)> {
    let error: &E = value.downcast_ref()?;
    Some(error)
}

impl ErrorInfo {
    /// Inspects an error and its causes, outermost first: the first that means a code decides. `named`
    /// are the types of errors that the layer's user has named.
    pub(super) fn inspect<E: fmt::Display + 'static>(error: &E, named: &[AsError]) -> Self {
        let mut info = Self::default();
        // Displaying an error can panic. What was found until then counts.
        contain::<dyn fmt::Display, _>("error", || {
            let outermost = as_error(error, named);
            for error in chain(outermost) {
                classify(error, &mut info);
            }
            if info.text.is_empty() {
                info.text = full_text(error, outermost);
            }
        });
        info
    }
}

/// Whether the stream of a request or its connection failed, as opposed to what was sent on it. It looks into
/// known types and boxes only: the transport makes these errors.
pub(super) fn is_stream_failure<E: fmt::Display + 'static>(error: &E) -> bool {
    let mut in_hyper = false;
    chain(as_error(error, &[])).any(|error| is_of_stream(error, &mut in_hyper))
}

fn as_error<'a, E: 'static>(error: &'a E, named: &[AsError]) -> Option<&'a (dyn Error + 'static)> {
    let mut views = KNOWN.iter().chain(named);
    as_boxed(error).or_else(|| views.find_map(|view| view(error)))
}

/// An error and its causes, outermost first.
pub(crate) fn chain<'a>(
    outermost: Option<&'a (dyn Error + 'static)>,
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    // A chain of causes that is circular must not hang.
    iter::successors(outermost, |&error| error.source()).take(CAUSES)
}

/// How many errors of a chain are read.
const CAUSES: usize = 128;

/// What an error and its causes display, the first kilobyte or so.
fn full_text(shown: &dyn fmt::Display, outermost: Option<&(dyn Error + 'static)>) -> String {
    let mut text = head_of(shown);
    for cause in chain(outermost).skip(1) {
        if text.len() > LONGEST {
            break;
        }
        let cause_text = head_of(cause);
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
    }
    text
}

/// No more than the first kilobyte of an error's text is kept.
const LONGEST: usize = 1024;

/// The beginning of what something displays.
fn head_of(shown: &(impl fmt::Display + ?Sized)) -> String {
    let mut head = Head(String::new());
    // It fails if the text is longer than the limit.
    let _ = write!(head, "{shown}");
    head.0
}

/// Takes text up to a limit.
struct Head(String);

impl fmt::Write for Head {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        self.0.extend(more.chars().take(LONGEST));
        if self.0.len() > LONGEST {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// Notes what one error of the chain means, unless an outer one has said it.
fn classify(error: &(dyn Error + 'static), info: &mut ErrorInfo) {
    #[cfg(feature = "tonic")]
    {
        if let Some(status) = error.downcast_ref::<tonic::Status>() {
            info.code.get_or_insert(status.code().into());
            if info.text.is_empty() {
                info.text = status.message().to_owned();
            }
        } else if error.is::<tonic::TimeoutExpired>() {
            // As tonic reports it.
            info.code.get_or_insert(Code::Cancelled);
            info.ending.get_or_insert(Ending::Deadline);
        } else if error.is::<tonic::ConnectError>() {
            info.code.get_or_insert(Code::Unavailable);
        }
    }
    #[cfg(feature = "reqwest")]
    if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        if error.is_connect() {
            info.code.get_or_insert(Code::Unavailable);
        } else if is_timeout_of_reqwest(error) {
            info.code.get_or_insert(Code::DeadlineExceeded);
            info.ending.get_or_insert(Ending::Deadline);
        }
    }
    #[cfg(feature = "transport")]
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        if error.is_timeout() {
            // The peer does not answer pings.
            info.code.get_or_insert(Code::Unavailable);
        } else if error.is_canceled() {
            // The connection closed while the call waited for its turn on it.
            info.code.get_or_insert(Code::Cancelled);
        }
    } else if error.is::<tower::load_shed::error::Overloaded>() {
        info.code.get_or_insert(Code::ResourceExhausted);
    }
    #[cfg(feature = "transport")]
    if let Some(h2) = error.downcast_ref::<h2::Error>() {
        if let Some(reason) = h2.reason() {
            info.code
                .get_or_insert(crate::protocol::grpc::code_of_reset(reason));
        }
        if h2.is_reset() && h2.is_remote() {
            info.ending.get_or_insert(Ending::Reset);
        }
    }
    let _ = (error, info);
}

/// Whether the client's own timeout passed. reqwest calls it a timeout too if a peer does not answer pings,
/// or if the system gives up on a socket.
#[cfg(feature = "reqwest")]
fn is_timeout_of_reqwest(error: &reqwest::Error) -> bool {
    let is_below =
        |error: &(dyn Error + 'static)| error.is::<hyper::Error>() || error.is::<std::io::Error>();
    error.is_timeout() && !chain(error.source()).any(is_below)
}

/// HTTP/2 has an error of its own for it. Over HTTP/1 hyper reads less than was announced, or the
/// socket fails under it; an I/O error that is not below hyper's is some other layer's.
fn is_of_stream(error: &(dyn Error + 'static), in_hyper: &mut bool) -> bool {
    #[cfg(feature = "transport")]
    {
        if error.is::<h2::Error>() {
            return true;
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            *in_hyper = true;
            return error.is_incomplete_message() || error.is_canceled() || error.is_closed();
        }
        if let (true, Some(error)) = (*in_hyper, error.downcast_ref::<std::io::Error>()) {
            use std::io::ErrorKind;
            return matches!(
                error.kind(),
                ErrorKind::UnexpectedEof
                    | ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::NotConnected
                    | ErrorKind::TimedOut
            );
        }
    }
    let _ = (error, in_hyper);
    false
}

/// The types of errors that services in use have, boxed ones aside.
const KNOWN: &[AsError] = &[
    #[cfg(feature = "tonic")]
    view_as::<tonic::Status>,
    #[cfg(feature = "tonic")]
    view_inside::<Box<tonic::Status>>,
    #[cfg(feature = "tonic")]
    view_inside::<Arc<tonic::Status>>,
    #[cfg(feature = "transport")]
    view_as::<tonic::transport::Error>,
    #[cfg(feature = "transport")]
    view_as::<hyper_util::client::legacy::Error>,
    #[cfg(feature = "transport")]
    view_as::<hyper::Error>,
    #[cfg(feature = "transport")]
    view_as::<h2::Error>,
    #[cfg(feature = "transport")]
    view_inside::<Arc<h2::Error>>,
    #[cfg(feature = "transport")]
    view_as::<tower::load_shed::error::Overloaded>,
    #[cfg(feature = "axum")]
    view_as::<axum::Error>,
    #[cfg(feature = "reqwest")]
    view_as::<reqwest::Error>,
    view_as::<std::io::Error>,
];

/// Views what a box of one type of error holds. The standard library's boxes hide it: their source is that of
/// the error inside.
#[cfg(feature = "tonic")]
fn view_inside<P>(value: &dyn Any) -> Option<&(dyn Error + 'static)>
where
    P: std::ops::Deref<Target: Error + Sized> + 'static,
{
    let pointer: &P = value.downcast_ref()?;
    Some(&**pointer)
}

/// Views a box as the error inside.
fn as_boxed<E: 'static>(error: &E) -> Option<&(dyn Error + 'static)> {
    let any: &dyn Any = error;
    if let Some(boxed) = any.downcast_ref::<Box<dyn Error + Send + Sync>>() {
        return Some(&**boxed);
    }
    if let Some(boxed) = any.downcast_ref::<Box<dyn Error + Send>>() {
        return Some(&**boxed);
    }
    if let Some(boxed) = any.downcast_ref::<Box<dyn Error>>() {
        return Some(&**boxed);
    }
    if let Some(shared) = any.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return Some(&**shared);
    }
    if let Some(shared) = any.downcast_ref::<Arc<dyn Error>>() {
        return Some(&**shared);
    }
    let shared = any.downcast_ref::<Arc<Box<dyn Error + Send + Sync>>>()?;
    Some(&***shared)
}
