//! Many readers, readers that do not read, and peers that open very much: RPCs go on.

use std::{
    future::pending,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use http::{Request, Response};
use tokio::io::AsyncReadExt as _;
use tonic::body::Body;
use tower::{Service as _, ServiceBuilder, ServiceExt as _};
use tower_tracer::TracerLayer;

use super::{get, hanging, html, job, json, open, read_until, requested, served};

#[tokio::test]
async fn a_thousand_readers_at_once_wait_for_each_other_and_rpcs_do_not() {
    let live = open();
    let layer = TracerLayer::new(live.tracer());
    let _calls = hanging(layer.clone(), 20);
    let page = json(&live, "").await;
    let one = format!(
        "/?rpc={}",
        page["in_flight"]["rpcs"][0]["id"].as_str().unwrap()
    );
    let readers = (0..1_000).map(|number| {
        let (live, one) = (live.clone(), one.clone());
        tokio::spawn(async move {
            let uri = if number % 10 == 0 { "/" } else { &*one };
            live.service().oneshot(get(uri)).await.unwrap().status()
        })
    });
    let readers: Vec<_> = readers.collect();
    // They share one place, whichever service they asked.
    tokio::task::yield_now().await;
    let mut rpcs = 0;
    while !readers.iter().all(|reader| reader.is_finished()) {
        job(&layer, "/a.B/C").await;
        rpcs += 1;
        tokio::task::yield_now().await;
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 200);
    }
    assert!(rpcs >= 1_000, "{rpcs} RPCs meanwhile");

    // More than wait are told so at once.
    let waiting = (0..1_100).map(|_| live.service().call(get("/")));
    let waiting: Vec<_> = waiting.collect();
    let answers = waiting.into_iter().rev().map(FutureExt::now_or_never);
    let refused = answers.flatten().map(|answer| answer.unwrap().status());
    // One of those that wait may have its page by now.
    let refused = refused.filter(|status| *status != 200);
    assert_eq!(refused.collect::<Vec<_>>(), vec![503; 1_100 - 1_024]);
    assert_eq!(
        live.service().oneshot(get("/")).await.unwrap().status(),
        200
    );
}

#[tokio::test]
async fn readers_that_go_away_give_up_their_places() {
    let live = open();
    for _ in 0..3 {
        let futures: Vec<_> = (0..1_024).map(|_| live.service().call(get("/"))).collect();
        drop(futures);
    }
    let mut first = Box::pin(live.service().call(get("/")));
    // It has begun, and its page is made without it.
    let _ = futures_util::poll!(&mut first);
    drop(first);
    assert_eq!(
        live.service().oneshot(get("/")).await.unwrap().status(),
        200
    );
}

#[tokio::test]
async fn a_reader_that_never_reads_its_events_costs_its_queue_and_no_more() {
    let live = open();
    let layer = TracerLayer::new(live.tracer());
    let address = served(&live).await;
    let mut slow = requested(address, "/watch").await;
    let mut page = requested(address, "/?view=watch&format=html").await;
    read_until(&mut slow, "event: progress").await;
    read_until(&mut page, "event: progress").await;
    // For longer than a second, so that more would be sent if it were read.
    let begin = Instant::now();
    let mut rpcs = 0;
    while begin.elapsed() < Duration::from_millis(1_500) {
        job(&layer, "/<b>.B/C").await;
        rpcs += 1;
        tokio::task::yield_now().await;
    }
    let row = super::row(&json(&live, "").await, "server", "_OTHER")["started"].clone();
    assert_eq!(row, rpcs);
    // A page gets rows of its table, which are escaped.
    let rows = read_until(&mut page, "event: progress").await;
    assert!(rows.contains("event: rpc\ndata: <tr><td>"), "{rows}");
    assert!(
        rows.contains("&lt;b&gt;.B/C") && !rows.contains("<b>"),
        "{rows}"
    );
    assert!(rows.matches("event: rpc").count() <= 60, "{rows}");
    let mut more = [0; 1_024];
    assert!(slow.read(&mut more).await.unwrap() > 0);
}

#[tokio::test]
async fn a_peer_that_opens_10_000_streams_and_stalls_is_listed_and_harms_nobody() {
    const STREAMS: usize = 10_000;
    let live = open();
    let layer = TracerLayer::new(live.tracer()).server();
    let handler = tower::service_fn(async |request: Request<Body>| {
        if request.uri().path() == "/a.B/Hang" {
            pending::<()>().await;
        }
        let response = Response::builder().header("grpc-status", "0");
        response
            .header("content-type", "application/grpc")
            .body(Body::empty())
    });
    let service = ServiceBuilder::new().layer(layer).service(handler);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let service = hyper_util::service::TowerToHyperService::new(
                ServiceBuilder::new()
                    .map_request(|request: Request<hyper::body::Incoming>| request.map(Body::new))
                    .service(service.clone()),
            );
            let executor = hyper_util::rt::TokioExecutor::new();
            let server = hyper::server::conn::http2::Builder::new(executor)
                .max_concurrent_streams(2 * STREAMS as u32)
                .serve_connection(hyper_util::rt::TokioIo::new(connection), service);
            tokio::spawn(server);
        }
    });
    let connect = async || {
        let connection = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut client = h2::client::Builder::new();
        client.initial_max_send_streams(2 * STREAMS);
        let (client, connection) = client
            .handshake::<_, bytes::Bytes>(connection)
            .await
            .unwrap();
        (client, tokio::spawn(connection))
    };
    let request = |path: &str| {
        let request = Request::post(format!("http://localhost{path}"));
        request
            .header("content-type", "application/grpc")
            .body(())
            .unwrap()
    };
    let (mut peer, connection) = connect().await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        // It never ends its requests, and reads no answer.
        streams.push(peer.send_request(request("/a.B/Hang"), false).unwrap());
    }
    let total = async || {
        json(&live, "limit=1").await["in_flight"]["total"]
            .as_u64()
            .unwrap()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while total().await < STREAMS as u64 {
        assert!(Instant::now() < deadline, "{} streams", total().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let page = html(&live, "/").await;
    assert!(page.contains("9800 left out") || page.contains("9\u{202f}800 left out"));
    assert!(page.len() < 50_000);
    // Another peer's RPCs are answered, and counted.
    let (other, _other_connection) = connect().await;
    let mut other = other.ready().await.unwrap();
    for _ in 0..10 {
        let (answer, _) = other.send_request(request("/a.B/C"), true).unwrap();
        assert_eq!(answer.await.unwrap().headers()["grpc-status"], "0");
    }
    let page = json(&live, "method=a.B/C").await;
    assert_eq!(super::row(&page, "server", "a.B/C")["ok"], 10);
    drop((streams, peer));
    connection.abort();
    while total().await > 0 {
        assert!(Instant::now() < deadline, "{} streams", total().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let page = json(&live, "method=a.B/Hang").await;
    let row = super::row(&page, "server", "a.B/Hang");
    assert_eq!(
        (&row["started"], &row["in_flight"]),
        (&STREAMS.into(), &0.into())
    );
}
