//! The record of a connection.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use super::{ConnectionEnd, Transfer, counters::Counters, rpcs::Rpcs};
use crate::{
    Role, RpcInfo,
    rpc::{Address, AtomicOffset, Tick},
};

/// The record of a connection: its ends, times and bytes, its RPCs, and how it ended.
///
/// A clone is the same record. It can be read at any time, also after the connection is closed.
#[derive(Clone)]
pub struct ConnectionInfo(Arc<Record>);

struct Record {
    number: u64,
    role: Role,
    target: Option<Box<str>>,
    attempt: Option<u32>,
    opened: SystemTime,
    start: Tick,
    addresses: OnceLock<Addresses>,
    ready: AtomicOffset,
    closed: AtomicOffset,
    active: AtomicOffset,
    received: Counters,
    sent: Counters,
    /// Whether TLS passes: 0 is unknown, 1 no, 2 yes.
    tls: AtomicU8,
    end: OnceLock<ConnectionEnd>,
    rpcs: Mutex<Rpcs>,
    #[cfg(feature = "h2-frames")]
    frames: Mutex<super::frames::Frames>,
}

/// Both ends of a connection, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) local: Option<Socket>,
    pub(super) peer: Option<Socket>,
}

impl Addresses {
    /// `None` if neither is known.
    pub(super) fn of_ip(local: Option<SocketAddr>, peer: Option<SocketAddr>) -> Option<Self> {
        let _ = local.or(peer)?;
        let (local, peer) = (local.map(Socket::Ip), peer.map(Socket::Ip));
        Some(Self { local, peer })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    Ip(SocketAddr),
    /// As gRPC writes it: `unix:/run/shop.sock`; an unnamed end is `unix:`.
    Unix(Box<str>),
}

impl Socket {
    pub(super) fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    fn as_address(&self) -> Address<'_> {
        match self {
            Self::Ip(address) => Address::Socket(*address),
            Self::Unix(name) => Address::Named(name),
        }
    }
}

impl ConnectionInfo {
    pub(super) fn new(
        role: Role,
        target: Option<Box<str>>,
        attempt: Option<u32>,
        addresses: Option<Addresses>,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(Arc::new(Record {
            number: NEXT.fetch_add(1, Relaxed),
            role,
            target,
            attempt,
            opened: SystemTime::now(),
            start: Tick::now(),
            addresses: addresses.map(OnceLock::from).unwrap_or_default(),
            ready: AtomicOffset::default(),
            closed: AtomicOffset::default(),
            active: AtomicOffset::default(),
            received: Counters::default(),
            sent: Counters::default(),
            tls: AtomicU8::new(0),
            end: OnceLock::new(),
            rpcs: Mutex::default(),
            #[cfg(feature = "h2-frames")]
            frames: Mutex::new(super::frames::Frames::new(role)),
        }))
    }

    /// A number that no other connection of this process has.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Which side this record is about.
    #[must_use]
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// The address on this side; `None` if it is unknown. A Unix socket is named as gRPC does:
    /// `unix:/run/shop.sock`, or `unix:` without a name.
    #[must_use]
    pub fn local(&self) -> Option<Address<'_>> {
        let addresses = self.0.addresses.get()?;
        addresses.local.as_ref().map(Socket::as_address)
    }

    /// The address on the other side; `None` if it is unknown, as on a client that is not connected yet.
    #[must_use]
    pub fn peer(&self) -> Option<Address<'_>> {
        let addresses = self.0.addresses.get()?;
        addresses.peer.as_ref().map(Socket::as_address)
    }

    pub(super) fn addresses(&self) -> Option<&Addresses> {
        self.0.addresses.get()
    }

    pub(crate) fn sockets(&self) -> crate::rpc::Sockets {
        let ip = |socket: &Option<Socket>| socket.as_ref().and_then(Socket::ip);
        let known = self.addresses();
        crate::rpc::Sockets {
            peer: known.and_then(|both| ip(&both.peer)),
            local: known.and_then(|both| ip(&both.local)),
        }
    }

    /// Whether they were not known before.
    pub(super) fn set_addresses(&self, addresses: Addresses) -> bool {
        self.0.addresses.set(addresses).is_ok()
    }

    /// On a client, what the connector was asked for: `http://greeter:50051`.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.0.target.as_deref()
    }

    /// On a client, which attempt in a row this is: 1 for the first one after a connection that succeeded.
    #[must_use]
    pub fn attempt(&self) -> Option<u32> {
        self.0.attempt
    }

    /// When it was accepted, or when the attempt to connect began, by the system's clock.
    #[must_use]
    pub fn opened_at(&self) -> SystemTime {
        self.0.opened
    }

    /// On a client, how long it took to connect: DNS, TCP, and whatever else the connector does.
    #[must_use]
    pub fn connect_time(&self) -> Option<Duration> {
        self.0.ready.get().filter(|_| self.0.role == Role::Client)
    }

    /// On a server, the time from the accept until the transport took the connection. With tonic's TLS that
    /// is the handshake.
    #[must_use]
    pub fn handshake_time(&self) -> Option<Duration> {
        self.0.ready.get().filter(|_| self.0.role == Role::Server)
    }

    /// Whether it was [ready](super::ConnectionTracer::ready).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.ready.get().is_some()
    }

    /// The time from its opening to its close, or until now.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.0.closed.get().unwrap_or_else(|| self.elapsed())
    }

    /// The time since bytes passed last, or since it was opened; at the most until its close.
    #[must_use]
    pub fn idle(&self) -> Duration {
        let active = self.0.active.get().unwrap_or_default();
        self.age().saturating_sub(active)
    }

    /// What was read.
    #[must_use]
    pub fn received(&self) -> Transfer {
        self.0.received.get()
    }

    /// What was written.
    #[must_use]
    pub fn sent(&self) -> Transfer {
        self.0.sent.get()
    }

    /// Whether what passes is TLS, by its first byte; `None` until then. Where TLS ends below the wrapper,
    /// what passes is not TLS.
    #[must_use]
    pub fn is_tls(&self) -> Option<bool> {
        match self.0.tls.load(Relaxed) {
            0 => None,
            seen => Some(seen == 2),
        }
    }

    /// How it ended; `None` while it is open.
    #[must_use]
    pub fn end(&self) -> Option<ConnectionEnd> {
        self.0.closed.get()?;
        match self.0.role == Role::Server && !self.is_ready() {
            true => Some(ConnectionEnd::HandshakeFailed),
            false => self.first_end(),
        }
    }

    /// The first reason to end that was seen, also where the handshake failed.
    pub(crate) fn first_end(&self) -> Option<ConnectionEnd> {
        self.0.end.get().copied()
    }

    /// The RPCs in flight on it, as far as that is [known](super#what-is-known): with tonic's `Channel` none are.
    #[must_use]
    pub fn rpcs(&self) -> Vec<RpcInfo> {
        self.lock_rpcs().running().cloned().collect()
    }

    /// How many RPCs started on it.
    #[must_use]
    pub fn rpcs_started(&self) -> u64 {
        self.lock_rpcs().started
    }

    /// How many RPCs run on it.
    #[must_use]
    pub fn rpcs_running(&self) -> usize {
        self.lock_rpcs().running().count()
    }

    /// How many RPCs were running when it was closed.
    #[must_use]
    pub fn rpcs_cut_off(&self) -> u64 {
        self.lock_rpcs().cut_off
    }

    /// What its HTTP/2 frames say; `None` if they cannot be read, as under TLS.
    #[cfg(feature = "h2-frames")]
    #[cfg_attr(docsrs, doc(cfg(feature = "h2-frames")))]
    #[must_use]
    pub fn h2(&self) -> Option<super::H2Figures> {
        self.lock_frames().figures()
    }

    pub(super) fn lock_rpcs(&self) -> MutexGuard<'_, Rpcs> {
        self.0.rpcs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(feature = "h2-frames")]
    fn lock_frames(&self) -> MutexGuard<'_, super::frames::Frames> {
        self.0.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.start.elapsed())
    }

    /// Counts a read.
    #[inline]
    pub(super) fn on_read(&self, bytes: &[u8]) {
        if self.0.role == Role::Server {
            self.inspect(bytes);
        }
        self.0.received.add(bytes.len());
        self.0.active.move_to(self.0.start.elapsed());
        #[cfg(feature = "h2-frames")]
        self.lock_frames().received(bytes, self.0.active.get());
    }

    /// Counts a write, whose bytes are the beginning of these.
    #[inline]
    pub(super) fn on_write<'a>(&self, buffers: impl Iterator<Item = &'a [u8]>, written: usize) {
        let mut rest = written;
        let taken = buffers.map(|bytes| {
            let taken = bytes.get(..rest).unwrap_or(bytes);
            rest -= taken.len();
            taken
        });
        let taken = taken.filter(|taken| !taken.is_empty());
        self.0.sent.add(written);
        self.0.active.move_to(self.0.start.elapsed());
        #[cfg(feature = "h2-frames")]
        for (index, bytes) in taken.enumerate() {
            if index == 0 && self.0.role == Role::Client {
                self.inspect(bytes);
            }
            self.lock_frames().sent(bytes, self.0.active.get());
        }
        #[cfg(not(feature = "h2-frames"))]
        let mut taken = taken;
        #[cfg(not(feature = "h2-frames"))]
        if self.0.role == Role::Client && self.0.tls.load(Relaxed) == 0 {
            self.inspect(taken.next().unwrap_or_default());
        }
    }

    /// The client speaks first, in TLS with a handshake record (RFC 8446 5.1).
    #[inline]
    fn inspect(&self, bytes: &[u8]) {
        if let Some(first) = bytes.first()
            && self.0.tls.load(Relaxed) == 0
        {
            let seen = if *first == 22 { 2 } else { 1 };
            self.0.tls.store(seen, Relaxed);
        }
    }

    /// A reason to end; the first one counts.
    pub(super) fn ends(&self, end: ConnectionEnd) {
        let _ = self.0.end.set(end);
    }

    /// Whether it was not ready before.
    pub(super) fn set_ready(&self) -> bool {
        self.0.ready.set(self.0.start.elapsed())
    }

    /// Ends the record.
    pub(super) fn close(&self) {
        self.lock_rpcs().close();
        self.ends(ConnectionEnd::Closed);
        self.0.closed.set(self.0.start.elapsed());
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// One line: `#7 server 10.1.4.7:50214 peer_closed after 12.5s, 812 B in, 4096 B out, 3 RPCs`.
impl fmt::Display for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {} ", self.number(), self.role())?;
        match (self.target(), self.peer()) {
            (Some(target), _) => f.write_str(target)?,
            (None, Some(peer)) => write!(f, "{peer}")?,
            (None, None) => f.write_str("unknown")?,
        }
        match self.end() {
            Some(end) => write!(f, " {end}")?,
            None => f.write_str(" open")?,
        }
        write!(
            f,
            " after {:.1?}, {} B in, {} B out, {} RPCs",
            self.age(),
            self.received().bytes(),
            self.sent().bytes(),
            self.rpcs_started(),
        )
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionInfo")
            .field("number", &self.number())
            .field("role", &self.role())
            .field("local", &self.local())
            .field("peer", &self.peer())
            .field("target", &self.target())
            .field("age", &self.age())
            .field("received", &self.received())
            .field("sent", &self.sent())
            .field("rpcs_started", &self.rpcs_started())
            .field("end", &self.end())
            .finish_non_exhaustive()
    }
}
