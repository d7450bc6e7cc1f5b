//! Reads what is on the wire: which protocol, where its messages begin and end, what its status is. It
//! writes no record.

mod base64;
mod body;
#[cfg(feature = "connect")]
mod connect;
mod detect;
mod end_frame;
mod framing;
pub(crate) mod grpc;
mod grpc_web;
mod headers;
mod wire_status;

use base64::Base64;
pub(crate) use body::{BodyEnd, BodyReader, EndOfBody};
pub(crate) use detect::{RequestHead, detect, request_head};
use end_frame::EndFrame;
use framing::{Frames, Framing};
pub(crate) use wire_status::WireStatus;
