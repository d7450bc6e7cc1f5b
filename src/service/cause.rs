//! Looks into errors of types the layer does not choose.

use std::{
    any::Any,
    error::Error,
    fmt::{self, Write as _},
    iter,
};

use crate::{
    rpc::{Code, Ending},
    tracer::contain,
};

/// An error as the layer sees it: what it displays, and its causes where its type is known to have
/// some.
pub(super) struct Failure<'a> {
    text: &'a dyn fmt::Display,
    error: Option<&'a (dyn Error + 'static)>,
}

/// What the causes of an error say.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) code: Option<Code>,
    /// More than that it failed: a reset, a deadline.
    pub(super) ending: Option<Ending>,
    pub(super) text: String,
}

impl<'a> Failure<'a> {
    pub(super) fn new<E: fmt::Display + 'static>(error: &'a E) -> Self {
        Self {
            text: error,
            error: as_error(error),
        }
    }

    /// Walks the causes, outermost first; the first that means a code decides.
    pub(super) fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        // What an error displays nobody may have asked for before: where it panics, what it has
        // said until then counts.
        contain::<dyn fmt::Display, _>("error", || self.ask(&mut verdict));
        verdict
    }

    fn ask(&self, verdict: &mut Verdict) {
        for error in self.chain() {
            look(error, verdict);
        }
        if verdict.text.is_empty() {
            verdict.text = self.full_text();
        }
    }

    /// Whether the HTTP/2 stream or its connection failed, as opposed to what was sent on it.
    pub(super) fn is_of_stream(&self) -> bool {
        self.chain().any(is_of_stream)
    }

    /// The error and its causes, outermost first.
    fn chain(&self) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
        // Causes come from libraries, but a chain that bites its tail must not hold us up.
        iter::successors(self.error, |&error| error.source()).take(32)
    }

    /// What the error and its causes display, the first kilobyte or so.
    fn full_text(&self) -> String {
        let mut text = head_of(self.text);
        for cause in self.chain().skip(1) {
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
}

/// No more than the first kilobyte of an error's text is kept.
const LONGEST: usize = 1024;

/// The beginning of what something displays.
fn head_of(shown: &(impl fmt::Display + ?Sized)) -> String {
    let mut head = Head(String::new());
    // It fails where the text is longer than is asked for.
    let _ = write!(head, "{shown}");
    head.0
}

/// Takes text until it has enough.
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

fn look(error: &(dyn Error + 'static), verdict: &mut Verdict) {
    #[cfg(feature = "tonic")]
    {
        if let Some(status) = error.downcast_ref::<tonic::Status>() {
            verdict.code.get_or_insert(status.code().into());
            if verdict.text.is_empty() {
                verdict.text = status.message().to_owned();
            }
        } else if error.is::<tonic::TimeoutExpired>() {
            // As tonic reports it.
            verdict.code.get_or_insert(Code::Cancelled);
            verdict.ending.get_or_insert(Ending::Deadline);
        } else if error.is::<tonic::ConnectError>() {
            verdict.code.get_or_insert(Code::Unavailable);
        }
    }
    #[cfg(feature = "transport")]
    if error
        .downcast_ref::<hyper::Error>()
        .is_some_and(hyper::Error::is_timeout)
    {
        // The peer answers no ping.
        verdict.code.get_or_insert(Code::Unavailable);
    }
    #[cfg(feature = "transport")]
    if let Some(h2) = error.downcast_ref::<h2::Error>() {
        if let Some(reason) = h2.reason() {
            verdict
                .code
                .get_or_insert(crate::protocol::grpc::code_of_reset(reason));
        }
        if h2.is_reset() && h2.is_remote() {
            verdict.ending.get_or_insert(Ending::Reset);
        }
    }
    let _ = (error, verdict);
}

fn is_of_stream(error: &(dyn Error + 'static)) -> bool {
    #[cfg(feature = "transport")]
    if error.is::<h2::Error>() {
        return true;
    }
    let _ = error;
    false
}

/// A type parameter does not tell whether it is an error; these are the ones that matter.
fn as_error<E: 'static>(error: &E) -> Option<&(dyn Error + 'static)> {
    let any: &dyn Any = error;
    if let Some(boxed) = any.downcast_ref::<Box<dyn Error + Send + Sync>>() {
        return Some(&**boxed);
    }
    #[cfg(feature = "tonic")]
    if let Some(status) = any.downcast_ref::<tonic::Status>() {
        return Some(status);
    }
    #[cfg(feature = "transport")]
    if let Some(error) = any.downcast_ref::<tonic::transport::Error>() {
        return Some(error);
    }
    #[cfg(feature = "axum")]
    if let Some(error) = any.downcast_ref::<axum_core::Error>() {
        return Some(error);
    }
    if let Some(error) = any.downcast_ref::<std::io::Error>() {
        return Some(error);
    }
    None
}
