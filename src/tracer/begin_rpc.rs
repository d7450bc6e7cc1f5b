//! Makes the record of a request.

use http::{Method, Uri};

use super::request::TracedRequest;
use crate::{
    config::Config,
    protocol::{self, RequestHead},
    rpc::{
        HttpMethod, Level, MethodPath, Protocol, Role, RpcInfo, RpcStart, SampleKey, Sockets, Tick,
        clock,
    },
};

/// A request that a record can be made of. Its own trait, so that there is a function for each type
/// of request, which calls the methods of [`TracedRequest`] directly.
pub(crate) trait Describe: TracedRequest {
    /// Makes the record, puts it into the request, and links it to its parent. `sample_key` is the one
    /// that a tracer has asked for before.
    fn begin_rpc(
        &mut self,
        config: &Config,
        level: Level,
        sample_key: Option<SampleKey>,
    ) -> RpcInfo;

    /// The side that the layer is on.
    fn role(&self, config: &Config) -> Role;

    /// The query of a GET, which may be a complete call of Connect.
    fn query_of_get(&self) -> Option<&str>;
}

impl<R: TracedRequest> Describe for R {
    fn begin_rpc(
        &mut self,
        config: &Config,
        level: Level,
        sample_key: Option<SampleKey>,
    ) -> RpcInfo {
        let role = self.role(config);
        let RequestHead {
            protocol,
            mut timeout,
            attempt,
        } = protocol::request_head(self.headers(), || self.query_of_get(), role);
        let mut sockets = Sockets::default();
        if role == Role::Server {
            if let Some(own) = config.server_timeout {
                timeout = Some(timeout.map_or(own, |asked| asked.min(own)));
            }
            sockets = addresses(self);
        }
        let path = match protocol {
            Protocol::Http => received_path(self),
            _ => self.method_path(),
        };
        let kind = match (&config.methods, protocol) {
            (None, _) | (Some(_), Protocol::Http) => None,
            (Some(methods), _) => methods.kind_of_path(self.path()),
        };
        let now = Tick::now();
        let start = RpcStart {
            role,
            protocol,
            kind,
            path,
            http_method: self.http_method().map(HttpMethod::new),
            endpoints: config.endpoints.clone(),
            sockets,
            timeout,
            deadline: timeout.and_then(clock::deadline_after),
            attempt,
        };
        let rpc = RpcInfo::new(start, self.http_method(), level, now);
        let outer = self.set_rpc(rpc.clone());
        rpc.set_parent(outer);
        #[cfg(feature = "connection")]
        if role == Role::Server
            && let Some(connection) = connection_of(self, &rpc)
        {
            rpc.set_connection(connection);
        }
        if let Some(key) = sample_key.or_else(|| inherited_by_root(&rpc)) {
            rpc.set_sample_key(key);
        }
        rpc
    }

    fn role(&self, config: &Config) -> Role {
        config.role.unwrap_or_else(|| inferred_role(self))
    }

    fn query_of_get(&self) -> Option<&str> {
        let uri = self
            .uri()
            .filter(|_| self.http_method() == Some(&Method::GET))?;
        uri.query()
    }
}

/// The path as it was received: what a router took off belongs to it. A method's name does not have it.
fn received_path(request: &impl TracedRequest) -> MethodPath {
    match request.uri().and_then(Uri::path_and_query) {
        Some(received) => MethodPath::from(received.clone()),
        None => request.method_path(),
    }
}

fn inferred_role(request: &impl TracedRequest) -> Role {
    #[cfg(feature = "tonic")]
    if let Some(extensions) = request.extensions()
        && extensions.get::<tonic::GrpcMethod<'static>>().is_some()
    {
        return Role::Client;
    }
    let outer = || request.rpc().map(RpcInfo::role);
    request.fixed_role().or_else(outer).unwrap_or(Role::Server)
}

/// A record without a parent can still be under a declined RPC.
#[inline]
fn inherited_by_root(rpc: &RpcInfo) -> Option<SampleKey> {
    match rpc.parent() {
        Some(_) => None,
        None => SampleKey::of_declined(),
    }
}

/// The connection of a server's request, if it is traced.
#[cfg(feature = "connection")]
fn connection_of(
    request: &impl TracedRequest,
    rpc: &RpcInfo,
) -> Option<crate::connection::ConnectionInfo> {
    if let Some(connection) = request.extensions().and_then(of_extensions) {
        return Some(connection.clone());
    }
    crate::connection::find(rpc.caller().socket()?, rpc.callee().socket())
}

/// The record that an accept loop, or axum, put into a request.
#[cfg(feature = "connection")]
fn of_extensions(extensions: &http::Extensions) -> Option<&crate::connection::ConnectionInfo> {
    let found = extensions.get::<crate::connection::ConnectionInfo>();
    #[cfg(feature = "axum")]
    let found = found.or_else(|| {
        let axum::extract::ConnectInfo(connection) = extensions.get()?;
        Some(connection)
    });
    found.filter(|connection| connection.role() == Role::Server)
}

/// The peer's address and the server's own, of the connection a request came on.
fn addresses(request: &mut dyn TracedRequest) -> Sockets {
    #[cfg(feature = "axum")]
    if let Some(extensions) = request.extensions()
        && let Some(axum::extract::ConnectInfo::<std::net::SocketAddr>(peer)) = extensions.get()
    {
        return Sockets {
            peer: Some(*peer),
            local: None,
        };
    }
    #[cfg(feature = "connection")]
    if let Some(connection) = request.extensions().and_then(of_extensions) {
        let sockets = connection.sockets();
        if sockets.peer.is_some() {
            return sockets;
        }
    }
    #[cfg(feature = "transport")]
    if let Some(extensions) = request.extensions_mut() {
        if let Some(tcp) = extensions.get::<tonic::transport::server::TcpConnectInfo>() {
            return Sockets {
                peer: tcp.remote_addr(),
                local: tcp.local_addr(),
            };
        }
        // Of a TLS connection only tonic knows the type, if TLS is on at all.
        let metadata = tonic::metadata::MetadataMap::new();
        let lent = tonic::Request::from_parts(metadata, std::mem::take(extensions), ());
        let sockets = Sockets {
            peer: lent.remote_addr(),
            local: lent.local_addr(),
        };
        (_, *extensions, ()) = lent.into_parts();
        return sockets;
    }
    let _ = request;
    Sockets::default()
}
