//! The page of connections.

use std::collections::BTreeSet;

use axum::extract::ConnectInfo;
use hyper_util::rt::TokioIo;
use tower_tracer::connection::{Acceptor, ConnectionInfo, ConnectionIo, Connector, Incoming};

use super::*;

async fn page(live: &Live) -> Value {
    let answer = send(live, get("/connections.json")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

/// The page, once this is true.
async fn page_when(live: &Live, ready: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let page = page(live).await;
        if ready(&page) {
            return page;
        }
        assert!(Instant::now() < deadline, "{page}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn keys(value: &Value) -> impl Iterator<Item = String> {
    value.as_object().unwrap().keys().cloned()
}

type Io = ConnectionIo<tokio::io::Empty>;

/// A connection of a server with addresses that are made up.
fn accepted(acceptor: &Acceptor, number: u16) -> Io {
    let peer = format!("[2001:db8:1234:5678:9abc:def0:1234:{number:x}]:54321");
    let local = "[2001:db8:1234:5678:9abc:def0:1234:abcd]:50051";
    let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
    let io = acceptor.accept_between(tokio::io::empty(), Some(local), Some(peer));
    io.set_ready();
    io
}

/// RPCs on a connection that hang until their futures are dropped.
fn hanging_on(live: &Live, io: &Io, method: &str, count: usize) -> Vec<impl Future + use<>> {
    let service = ServiceBuilder::new().layer(TracerLayer::new(live.tracer()).server());
    let service = service
        .service_fn(async |_: Request<()>| pending::<Result<Response<String>, Infallible>>().await);
    let calls = (0..count).map(|_| {
        let request = Request::post(method).header("content-type", "application/grpc");
        let request = request.extension(ConnectInfo(io.connection().clone()));
        service.clone().call(request.body(()).unwrap())
    });
    calls.collect()
}

#[tokio::test]
async fn an_rpc_names_its_connection_and_a_connection_its_rpcs() {
    let live = open();
    let (incoming, uri) = echo::listen().await.unwrap();
    let server = tonic::transport::Server::builder()
        .layer(TracerLayer::new(live.tracer()).server())
        .add_service(echo::EchoServer::new(echo::EchoService));
    tokio::spawn(server.serve_with_incoming(Incoming::new(incoming, live.tracer())));
    let channel = load::connect(&uri, TracerLayer::new(()).client()).await;
    let mut client = echo::EchoClient::new(channel.unwrap());
    let call = tokio::spawn(async move {
        let hangs = echo::say("hangs").after(Duration::from_secs(600));
        client.unary_echo(hangs).await.map(drop)
    });
    let shown = page_when(&live, |page| page["open"][0]["rpcs"][0]["id"].is_string()).await;
    let connection = &shown["open"][0];
    let rpc = &connection["rpcs"][0];
    assert_eq!(rpc["method"], "echo.Echo/UnaryEcho");
    assert_eq!(connection["ready"], true);
    assert!(connection["setup"].as_f64().is_some());
    let number = connection["number"].as_u64().unwrap();

    let id = rpc["id"].as_str().unwrap();
    let one = json(&live, &format!("rpc={id}")).await;
    assert_eq!(one["connection"], number);
    let listed = json(&live, "").await;
    assert_eq!(listed["in_flight"]["rpcs"][0]["connection"], number);
    let shown = html(&live, &format!("/?rpc={id}")).await;
    let link = format!("?view=connections#c{number}");
    assert!(shown.contains(&link), "{shown}");
    let shown = html(&live, "/?view=connections").await;
    assert!(shown.contains(&format!("id=\"c{number}\"")), "{shown}");
    assert!(shown.contains(&format!("?rpc={id}")), "{shown}");
    let shown = text(&live, &format!("/rpc/{id}")).await;
    assert!(
        shown.contains(&format!("connection    {number}\n")),
        "{shown}"
    );
    let shown = text(&live, "/connections").await;
    let row = |line: &str| line.contains(id) && line.contains("echo.Echo/UnaryEcho");
    assert!(shown.lines().any(row), "{shown}");

    // A copy of one that is over still has it.
    call.abort();
    let _ = call.await;
    page_when(&live, |page| page["totals"]["server"]["open"] == 0).await;
    let one = json(&live, &format!("rpc={id}")).await;
    assert_eq!(
        (&one["in_flight"], &one["connection"]),
        (&false.into(), &number.into())
    );
    // One that came on no connection has none.
    job(&TracerLayer::new(live.tracer()), "/a.B/C").await;
    let listed = json(&live, "method=a.B/C").await;
    assert_eq!(listed["samples"]["rpcs"][0]["connection"], Value::Null);
}

#[tokio::test]
async fn a_page_stays_small_however_many_rpcs_are_on_its_connections() {
    let live = open();
    let acceptor = Acceptor::new(live.tracer());
    let method = format!("/shop.warehouse.inventory.v1.{}/Hang", "X".repeat(40));
    // Those that end had RPCs.
    for number in 0..100 {
        let io = accepted(&acceptor, number);
        let _calls = hanging_on(&live, &io, &method, 2);
        drop(io);
    }
    let open: Vec<_> = (1_000..1_250)
        .map(|number| accepted(&acceptor, number))
        .collect();
    let calls: Vec<_> = open
        .iter()
        .map(|io| hanging_on(&live, io, &method, 12))
        .collect();
    let shown = page(&live).await;
    assert_eq!(shown["open"].as_array().unwrap().len(), 200);
    assert_eq!(
        (&shown["left_out"], &shown["untracked"]),
        (&50.into(), &0.into())
    );
    for of in shown["open"].as_array().unwrap() {
        assert_eq!(
            (&of["rpcs_running"], &of["rpcs_started"]),
            (&12.into(), &12.into())
        );
        assert_eq!(of["rpcs"].as_array().unwrap().len(), 10);
    }
    for of in shown["ended"].as_array().unwrap() {
        assert_eq!(
            (&of["rpcs_running"], &of["rpcs_cut_off"]),
            (&0.into(), &2.into())
        );
    }
    let shown = html(&live, "/?view=connections").await;
    println!("a full page of connections: {} bytes", shown.len());
    assert!(shown.len() < 50_000, "{} bytes", shown.len());
    assert!(shown.contains("150 left out") && shown.contains("2 cut off"));
    assert!(shown.contains("11 more"), "{shown}");
    let more = html(&live, "/?view=connections&limit=200").await;
    assert!(more.contains("50 left out"));
    let shown = text(&live, "/connections").await;
    assert!(shown.contains("oldest first, 50 left out\n"), "{shown}");
    assert!(shown.contains("2 more") && shown.contains("2 RPCs cut off"));

    // With few connections there is room for ten of each.
    drop(calls);
    let mut open = open;
    open.truncate(3);
    let calls: Vec<_> = open
        .iter()
        .map(|io| hanging_on(&live, io, &method, 12))
        .collect();
    let shown = html(&live, "/?view=connections").await;
    assert_eq!(shown.matches("?rpc=").count(), 30);
    assert_eq!(shown.matches("2 more").count(), 3);
    drop(calls);
}

#[tokio::test]
async fn the_oldest_rpcs_of_a_connection_are_listed() {
    let live = open();
    let io = accepted(&Acceptor::new(live.tracer()), 1);
    let mut calls = hanging_on(&live, &io, "/a.B/Old", 12);
    // A new one takes the place of one that is over.
    drop(calls.remove(2));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let _new = hanging_on(&live, &io, "/a.B/New", 1);
    let shown = page(&live).await;
    let of = &shown["open"][0];
    assert_eq!(
        (&of["rpcs_running"], &of["rpcs_started"]),
        (&12.into(), &13.into())
    );
    let rpcs = of["rpcs"].as_array().unwrap();
    assert_eq!(rpcs.len(), 10);
    assert!(
        rpcs.iter().all(|rpc| rpc["method"] == "a.B/Old"),
        "{rpcs:?}"
    );
    // The new one comes last.
    calls.truncate(5);
    let shown = page(&live).await;
    let rpcs = shown["open"][0]["rpcs"].as_array().unwrap();
    assert_eq!(rpcs.len(), 6);
    assert_eq!(rpcs[5]["method"], "a.B/New");
}

#[tokio::test]
async fn ten_thousand_are_tracked_and_more_are_counted() {
    let live = open();
    let acceptor = Acceptor::new(live.tracer());
    let accept = || acceptor.accept_between(tokio::io::duplex(1).0, None, None);
    let mut all: Vec<_> = (0..10_100).map(|_| accept()).collect();
    let shown = page(&live).await;
    assert_eq!(
        (&shown["left_out"], &shown["untracked"]),
        (&9_900.into(), &100.into())
    );
    assert!(
        text(&live, "/connections")
            .await
            .contains("100 of them too many to track")
    );
    assert!(
        html(&live, "/?view=connections")
            .await
            .contains("100 of them too many to track")
    );
    // A hundred that are tracked are left, and those that never were.
    all.drain(..9_900);
    let shown = page(&live).await;
    assert_eq!(shown["totals"]["server"]["open"], 200);
    assert_eq!(shown["open"].as_array().unwrap().len(), 100);
    assert_eq!(
        (&shown["left_out"], &shown["untracked"]),
        (&100.into(), &100.into())
    );
    // Now there is room.
    all.push(accept());
    assert_eq!(page(&live).await["open"].as_array().unwrap().len(), 101);
    drop(all);
    let shown = page(&live).await;
    assert_eq!(shown["totals"]["server"]["open"], 0);
    assert_eq!(
        (&shown["left_out"], &shown["untracked"]),
        (&0.into(), &0.into())
    );
    assert_eq!(
        shown["totals"]["server"]["ends"]["handshake_failed"],
        10_101
    );
}

#[tokio::test]
async fn ends_are_counted_by_their_reason_as_the_recorder_has_them() {
    let live = open();
    let recorder = RecordingTracer::new();
    let tracers = || (live.tracer(), recorder.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = Incoming::new(listener, tracers());
    let router = axum::Router::new().route("/", axum::routing::get(async || "ok"));
    let service = router.into_make_service_with_connect_info::<ConnectionInfo>();
    tokio::spawn(async move { axum::serve(incoming, service).await });
    // Two peers that close, and two connections that this side closes.
    for _ in 0..2 {
        let mut connection = requested(address, "/").await;
        read_until(&mut connection, "ok").await;
        drop(connection);
        let mut connection = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        connection.write_all(request).await.unwrap();
        read_until(&mut connection, "never").await;
    }
    // A handshake that fails, one attempt that fails, and one that is given up.
    drop(Acceptor::new(tracers()).accept(tokio::io::empty()));
    let refuse = tower::service_fn(async |_| {
        Err::<TokioIo<TcpStream>, _>(std::io::Error::from(std::io::ErrorKind::ConnectionRefused))
    });
    let target = format!("http://{}/", "h".repeat(3_000));
    let mut connector = Connector::new(refuse, tracers());
    connector.call(target.parse().unwrap()).await.unwrap_err();
    let wait =
        tower::service_fn(async |_| pending::<Result<TokioIo<TcpStream>, std::io::Error>>().await);
    drop(Connector::new(wait, tracers()).call("http://shop:1/".parse().unwrap()));

    let shown = page_when(&live, |page| page["totals"]["server"]["open"] == 0).await;
    let mut truth: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for connection in recorder.connections() {
        let ends = truth.entry(connection.role().to_string()).or_default();
        *ends
            .entry(connection.end().unwrap().as_str().to_owned())
            .or_default() += 1;
    }
    for (role, ends) in &truth {
        let totals = &shown["totals"][role];
        assert_eq!(totals["ends"], serde_json::json!(ends), "{role}");
        assert_eq!(totals["opened"], ends.values().sum::<u64>(), "{role}");
    }
    let (server, client) = (&truth["server"], &truth["client"]);
    assert_eq!(server["handshake_failed"], 1);
    assert_eq!(server.values().sum::<u64>(), 5);
    assert!(server["peer_closed"] >= 2, "{server:?}");
    assert_eq!((client["connect_failed"], client["abandoned"]), (1, 1));
    // Each form has them.
    for shown in [
        html(&live, "/?view=connections").await,
        text(&live, "/connections").await,
    ] {
        for end in ["handshake_failed 1", "connect_failed 1", "abandoned 1"] {
            assert!(shown.contains(end), "{end} in {shown}");
        }
        assert!(
            shown.contains("connect_failed: connection refused"),
            "{shown}"
        );
    }
    // What is kept is cut. Which RPCs there were is unknown, which is not zero.
    let ended = shown["ended"].as_array().unwrap();
    let failed = ended
        .iter()
        .find(|of| of["end"] == "connect_failed: connection refused");
    let failed = failed.unwrap();
    assert!(failed["target"].as_str().unwrap().len() <= 256 + "…".len());
    for key in [
        "rpcs_started",
        "rpcs_running",
        "rpcs_cut_off",
        "tls",
        "setup",
    ] {
        assert_eq!(failed[key], Value::Null, "{key}");
    }
    let figures = live.clone().guard(|_| Access::Figures);
    for form in ["html", "text", "json"] {
        let shown = text(&figures, &format!("/?view=connections&format={form}")).await;
        assert!(
            !shown.contains("shop") && !shown.contains("hhhh"),
            "{shown}"
        );
        assert!(!shown.contains("127.0.0.1"), "{shown}");
        assert!(shown.contains("abandoned"), "{shown}");
    }
}

#[tokio::test]
async fn a_browser_is_sent_to_where_links_work() {
    for (uri, location) in [
        ("/connections", "./?view=connections"),
        ("/connections?limit=7", "./?view=connections&limit=7"),
    ] {
        let mut request = get(uri);
        let accept = HeaderValue::from_static("text/html,*/*");
        request.headers_mut().insert("accept", accept);
        let response = open().service().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 303);
        assert_eq!(response.headers()[header::LOCATION], *location);
    }
    let overview = html(&open(), "/").await;
    assert!(overview.contains("href=\"?view=connections\""));
}

#[cfg(unix)]
#[tokio::test]
async fn the_name_of_a_socket_is_text() {
    let live = open();
    let folder = std::env::temp_dir().join(format!("tower-tracer-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("\"><script>alert(1)<\n\u{202e}");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let _peer = tokio::net::UnixStream::connect(&path).await.unwrap();
    let io = Acceptor::new(live.tracer()).accept(listener.accept().await.unwrap().0);
    std::fs::remove_dir_all(&folder).unwrap();
    let shown = html(&live, "/?view=connections").await;
    assert!(shown.contains("script&gt;"), "{shown}");
    assert!(!shown.contains("<script>") && !shown.contains('\u{202e}'));
    assert!(
        page(&live).await["open"][0]["local"]
            .as_str()
            .unwrap()
            .contains("<script>")
    );
    drop(io);
    assert!(!html(&live, "/?view=connections").await.contains("<script>"));
}

#[tokio::test]
async fn the_documentation_has_each_key_of_the_json() {
    let live = open();
    let acceptor = Acceptor::new(live.tracer());
    drop(accepted(&acceptor, 1));
    let io = accepted(&acceptor, 2);
    let _calls = hanging_on(&live, &io, "/a.B/Hang", 1);
    let shown = page(&live).await;
    let of = &shown["open"][0];
    let all = keys(&shown)
        .chain(keys(&shown["totals"]["server"]))
        .chain(keys(of))
        .chain(keys(&of["rpcs"][0]));
    let all: BTreeSet<_> = all.collect();
    let described = include_str!("../../../src/live/live.md");
    let (_, described) = described
        .split_once("The page of connections has ")
        .unwrap();
    let (described, _) = described.split_once("\n\n").unwrap();
    let named = described.split('`').skip(1).step_by(2);
    let named: BTreeSet<_> = named.map(str::to_owned).collect();
    assert_eq!(all, named);
    assert_eq!(shown["schema"], 1);
}
