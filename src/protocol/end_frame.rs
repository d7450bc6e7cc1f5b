//! The end of a body that says how its RPC ended, read as it streams past.

#[cfg(feature = "connect")]
use std::io::{self, Write};

use http::HeaderMap;

#[cfg(feature = "connect")]
use super::{BodyEnd, WireStatus, connect};
use super::{EndOfBody, grpc_web};

/// The frame at the end of a body, or the complete body, that holds the status.
///
/// Its status is found whatever its size; what is kept of it has a bound.
#[derive(Debug)]
pub(crate) struct EndFrame {
    text: Text,
    content: Content,
    complete: bool,
}

/// What kind of text the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    /// The trailers of gRPC-Web.
    Trailers,
    /// The end of a stream of Connect.
    #[cfg(feature = "connect")]
    Stream,
    /// The error of a unary call of Connect, which is the complete body.
    #[cfg(feature = "connect")]
    UnaryError,
}

#[derive(Debug)]
enum Content {
    None,
    Plain(Reader),
    /// Compressed, and none of it seen yet.
    #[cfg(feature = "connect")]
    Compressed,
    /// gzip is the one compression that all of Connect's peers share.
    #[cfg(feature = "connect")]
    Gzip(Box<flate2::write::GzDecoder<Reader>>),
    /// All of it, as it is: zstd is decompressed at its end.
    #[cfg(feature = "connect-zstd")]
    Zstd(Vec<u8>),
    Unreadable,
}

impl EndFrame {
    pub(crate) fn new(text: Text) -> Self {
        Self {
            text,
            content: Content::None,
            complete: false,
        }
    }

    /// The error of a unary call of Connect.
    #[cfg(feature = "connect")]
    pub(crate) fn of_unary_error(compressed: bool) -> Self {
        let mut end = Self::new(Text::UnaryError);
        end.begin(compressed);
        end
    }

    /// Whether a frame with these flags is the end.
    pub(crate) fn is_flagged(&self, flags: u8) -> bool {
        match self.text {
            Text::Trailers => flags & grpc_web::TRAILERS != 0,
            #[cfg(feature = "connect")]
            Text::Stream => flags & connect::END_OF_STREAM != 0,
            #[cfg(feature = "connect")]
            Text::UnaryError => false,
        }
    }

    /// Whether the end is the body itself.
    pub(crate) fn is_whole_body(&self) -> bool {
        #[cfg(feature = "connect")]
        if self.text == Text::UnaryError {
            return true;
        }
        false
    }

    /// The next bytes of a frame with these flags.
    pub(crate) fn content(&mut self, flags: u8, bytes: &[u8]) {
        if self.complete {
            return;
        }
        if matches!(self.content, Content::None) {
            self.begin(flags & 1 != 0);
        }
        self.push(bytes);
    }

    /// The frame is complete.
    pub(crate) fn complete(&mut self, flags: u8) {
        if matches!(self.content, Content::None) {
            self.begin(flags & 1 != 0);
        }
        self.complete = true;
    }

    /// The next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        #[cfg(feature = "connect")]
        self.recognize(bytes);
        match &mut self.content {
            Content::Plain(reader) => reader.push(bytes),
            #[cfg(feature = "connect-zstd")]
            Content::Zstd(compressed) => match compressed.len() + bytes.len() <= HEAD {
                true => compressed.extend_from_slice(bytes),
                false => self.content = Content::Unreadable,
            },
            #[cfg(feature = "connect")]
            Content::Gzip(gunzip) => {
                let written = gunzip.write_all(bytes);
                // If there is more of it than is read, what was read counts.
                if written.is_err() && !gunzip.get_ref().is_full() {
                    self.content = Content::Unreadable;
                }
            }
            #[cfg(feature = "connect")]
            Content::Compressed => {}
            Content::None | Content::Unreadable => {}
        }
    }

    /// Finds out which compression it is. A frame does not say so, but its first byte does.
    #[cfg(feature = "connect")]
    fn recognize(&mut self, bytes: &[u8]) {
        let (Content::Compressed, Some(first)) = (&self.content, bytes.first()) else {
            return;
        };
        self.content = match first {
            #[cfg(feature = "connect-zstd")]
            &ZSTD => Content::Zstd(Vec::new()),
            _ => {
                let reader = Reader::new(self.text);
                Content::Gzip(Box::new(flate2::write::GzDecoder::new(reader)))
            }
        };
    }

    /// The rest cannot be looked at: what was read may still say the status.
    pub(crate) fn lose(&mut self) {
        match &mut self.content {
            Content::Plain(reader) => {
                reader.begin_search();
                reader.lost = true;
            }
            content => *content = Content::Unreadable,
        }
    }

    fn begin(&mut self, compressed: bool) {
        self.content = match compressed {
            false => Content::Plain(Reader::new(self.text)),
            #[cfg(feature = "connect")]
            true => Content::Compressed,
            #[cfg(not(feature = "connect"))]
            true => Content::Unreadable,
        };
    }

    /// What the frame holds, once it is complete.
    #[inline]
    pub(crate) fn end_of_body(&mut self) -> Option<EndOfBody> {
        if !self.complete {
            return None;
        }
        let text = self.text;
        let read = self.read();
        match text {
            Text::Trailers => {
                let trailers = read.map(Reader::trailers).unwrap_or_default();
                Some(EndOfBody::Trailers(trailers))
            }
            #[cfg(feature = "connect")]
            Text::Stream => {
                // Garbage is not a status.
                let status = read.and_then(Reader::end_of_stream);
                Some(EndOfBody::Status(BodyEnd {
                    has_trailers: status.is_some(),
                    status,
                }))
            }
            #[cfg(feature = "connect")]
            Text::UnaryError => None,
        }
    }

    /// The error that is the body of a unary response, which is at its end; `None` if it is not one.
    #[cfg(feature = "connect")]
    pub(crate) fn unary_error(&mut self) -> Option<WireStatus<'static>> {
        if self.text != Text::UnaryError {
            return None;
        }
        self.read().and_then(Reader::unary_error)
    }

    fn read(&mut self) -> Option<&Reader> {
        #[cfg(feature = "connect-zstd")]
        if let Content::Zstd(compressed) = &self.content {
            self.content = match Reader::of_zstd(self.text, compressed) {
                Some(reader) => Content::Plain(reader),
                None => Content::Unreadable,
            };
        }
        match &mut self.content {
            Content::Plain(reader) => Some(reader),
            #[cfg(feature = "connect")]
            Content::Gzip(gunzip) => {
                let is_whole = gunzip.try_finish().is_ok();
                let reader = gunzip.get_ref();
                (is_whole || reader.is_full()).then_some(reader)
            }
            #[cfg(feature = "connect")]
            Content::Compressed => None,
            #[cfg(feature = "connect-zstd")]
            Content::Zstd(_) => None,
            Content::None | Content::Unreadable => None,
        }
    }
}

/// Reads the plain text: keeps its head, and goes on to look for the status in what follows that.
#[derive(Debug)]
struct Reader {
    text: Text,
    head: Vec<u8>,
    /// What looks at all of it, once it is longer than the head.
    search: Option<Search>,
    /// How many more bytes are decompressed: a few bytes can expand to gigabytes.
    #[cfg(feature = "connect")]
    left: usize,
    /// What follows was not seen.
    lost: bool,
}

#[derive(Debug)]
enum Search {
    Trailers(grpc_web::StatusSearch),
    #[cfg(feature = "connect")]
    Error(connect::ErrorSearch),
}

/// How much of the text is kept: a status and a message fit in there.
const HEAD: usize = 8 * 1024;
/// How much plain text is read of what is compressed.
#[cfg(feature = "connect")]
const INFLATED: usize = 16 * 1024 * 1024;
/// The first byte of what zstd compressed.
#[cfg(feature = "connect-zstd")]
const ZSTD: u8 = 0x28;
/// How far back a frame of zstd may refer: as far as the default level does. The decoder keeps that much of what
/// it has decompressed.
#[cfg(feature = "connect-zstd")]
const WINDOW: u64 = 2 * 1024 * 1024;

impl Reader {
    fn new(text: Text) -> Self {
        Self {
            text,
            head: Vec::new(),
            search: None,
            #[cfg(feature = "connect")]
            left: INFLATED,
            lost: false,
        }
    }

    /// Reads all of it; `None` if it is not whole, or if it is not zstd.
    #[cfg(feature = "connect-zstd")]
    fn of_zstd(text: Text, compressed: &[u8]) -> Option<Self> {
        // A panic of the decoder must not become one of the layer.
        let read = std::panic::AssertUnwindSafe(|| {
            let mut reader = Self::new(text);
            let mut decoder =
                ruzstd::decoding::StreamingDecoder::new_with_max_window_size(compressed, WINDOW)
                    .ok()?;
            let copied = io::copy(&mut decoder, &mut reader);
            (copied.is_ok() || reader.is_full()).then_some(reader)
        });
        std::panic::catch_unwind(read).ok().flatten()
    }

    /// Whether it has read as much as it does of what is compressed.
    #[cfg(feature = "connect")]
    fn is_full(&self) -> bool {
        self.left == 0
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.lost {
            return;
        }
        if self.search.is_none() {
            let room = HEAD.saturating_sub(self.head.len());
            if bytes.len() <= room {
                self.head.extend_from_slice(bytes);
                return;
            }
            self.begin_search();
        }
        if let Some(search) = &mut self.search {
            search.push(bytes);
        }
    }

    fn begin_search(&mut self) {
        if self.search.is_none() {
            let mut search = match self.text {
                Text::Trailers => Search::Trailers(grpc_web::StatusSearch::default()),
                #[cfg(feature = "connect")]
                Text::Stream => Search::Error(connect::ErrorSearch::in_stream()),
                #[cfg(feature = "connect")]
                Text::UnaryError => Search::Error(connect::ErrorSearch::in_unary()),
            };
            search.push(&self.head);
            self.search = Some(search);
        }
    }

    fn trailers(&self) -> HeaderMap {
        match &self.search {
            Some(Search::Trailers(search)) => {
                // Half a line is not read: a 13 is not a 1.
                let end = self.head.iter().rposition(|byte| *byte == b'\n');
                let lines = self.head.get(..end.unwrap_or(0)).unwrap_or_default();
                let mut trailers = grpc_web::trailers(lines);
                search.add_to(&mut trailers);
                trailers
            }
            _ => grpc_web::trailers(&self.head),
        }
    }

    #[cfg(feature = "connect")]
    fn end_of_stream(&self) -> Option<WireStatus<'static>> {
        match &self.search {
            Some(Search::Error(search)) => search.end_of_stream(),
            _ => connect::end_of_stream(&self.head),
        }
    }

    #[cfg(feature = "connect")]
    fn unary_error(&self) -> Option<WireStatus<'static>> {
        match &self.search {
            Some(Search::Error(search)) => search.error(),
            _ => connect::unary_error(&self.head),
        }
    }
}

impl Search {
    fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Trailers(search) => search.push(bytes),
            #[cfg(feature = "connect")]
            Self::Error(search) => search.push(bytes),
        }
    }
}

#[cfg(feature = "connect")]
impl Write for Reader {
    /// Takes nothing more once it is full: further writes fail.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = bytes.get(..self.left).unwrap_or(bytes);
        self.push(bytes);
        self.left -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
