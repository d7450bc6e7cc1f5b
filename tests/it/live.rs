//! The live page: what it shows, to whom, and what it costs.

#[path = "../../examples/load/mod.rs"]
mod load;

#[cfg(feature = "connection")]
mod connections;
#[path = "live/links.rs"]
mod links;
#[path = "live/pages.rs"]
mod pages;
#[path = "live/readers.rs"]
mod readers;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::pending,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::support::tcp::echo;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tower::{Service as _, ServiceBuilder, ServiceExt as _};
use tower_tracer::{
    Code, Event, Level, RpcInfo, Tracer as _, TracerLayer,
    live::{Access, Live, LiveTracer},
    rpc::Endpoint,
    service::{RpcGuard, TracedRequest, TracedResponse},
    testing::RecordingTracer,
};

/// A page that shows all.
fn open() -> Live {
    Live::new().name("test").guard(|_| Access::Everything)
}

struct Answer {
    status: StatusCode,
    kind: String,
    body: String,
}

async fn send(live: &Live, request: Request<()>) -> Answer {
    let response = live.service().oneshot(request).await.unwrap();
    let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
    let kind = kind.to_owned();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    Answer { status, kind, body }
}

fn get(uri: &str) -> Request<()> {
    let request = Request::get(uri).header("host", "localhost");
    request.body(()).unwrap()
}

async fn text(live: &Live, uri: &str) -> String {
    send(live, get(uri)).await.body
}

async fn html(live: &Live, uri: &str) -> String {
    let mut request = get(uri);
    let accept = HeaderValue::from_static("text/html,*/*");
    request.headers_mut().insert("accept", accept);
    let answer = send(live, request).await;
    assert_eq!(answer.kind, "text/html; charset=utf-8");
    answer.body
}

async fn json(live: &Live, query: &str) -> Value {
    let answer = send(live, get(&format!("/.json?{query}"))).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.kind, "application/json");
    serde_json::from_str(&answer.body).unwrap()
}

fn row<'a>(page: &'a Value, role: &str, method: &str) -> &'a Value {
    let rows = page["methods"]["rows"].as_array().unwrap();
    let mut rows = rows.iter();
    let found = rows.find(|row| row["role"] == role && row["method"] == method);
    found.unwrap_or_else(|| panic!("no row {role} {method}"))
}

/// A request that is not HTTP: its path can be anything.
struct Job(String);

impl TracedRequest for Job {
    fn path(&self) -> &str {
        &self.0
    }
}

#[derive(Debug)]
struct Done(Code);

impl TracedResponse for Done {
    type Traced<T: tower_tracer::Tracer> = Self;

    fn attach<T: tower_tracer::Tracer>(self, rpc: RpcGuard<T>) -> Self {
        rpc.finish(Some(self.0.into()));
        self
    }
}

/// An RPC with this path. It is NOT_FOUND, which is no failure of a server, if that begins with `/bad`, and
/// fails if it begins with `/broken`.
async fn job(layer: &TracerLayer<LiveTracer>, path: &str) {
    let service = ServiceBuilder::new().layer(layer.clone().server());
    let mut service = service.service_fn(async |job: Job| {
        let code = if job.0.starts_with("/bad") {
            Code::NotFound
        } else if job.0.starts_with("/broken") {
            Code::Internal
        } else {
            Code::Ok
        };
        Ok::<_, Infallible>(Done(code))
    });
    let _ = service.call(Job(path.to_owned())).await;
}

/// RPCs that hang until their futures are dropped.
fn hanging(
    layer: TracerLayer<LiveTracer>,
    count: usize,
) -> Vec<impl Future<Output = Result<Done, Infallible>>> {
    let service = ServiceBuilder::new().layer(layer.server());
    let service = service.service_fn(async |_: Job| pending::<Result<Done, Infallible>>().await);
    let calls = (0..count).map(|_| service.clone().call(Job("/a.B/Hang".to_owned())));
    calls.collect()
}

#[tokio::test]
async fn figures_are_those_of_the_recorder_to_the_last_count() {
    let live = open();
    let recorder = RecordingTracer::new();
    let tracers = || (live.tracer(), recorder.clone());
    let served = load::serve(TracerLayer::new(tracers()).server())
        .await
        .unwrap();
    let channel = load::connect(&served.uri, TracerLayer::new(tracers()).client())
        .await
        .unwrap();
    load::rounds(&channel, 20).await.unwrap();
    drop(channel);
    served.end().await;

    #[derive(Debug, Default, PartialEq)]
    struct Figures {
        finished: u64,
        ok: u64,
        failed: u64,
        codes: BTreeMap<String, u64>,
        endings: BTreeMap<String, u64>,
        sent: [u64; 2],
        received: [u64; 2],
    }
    let mut truth: BTreeMap<(String, String), Figures> = BTreeMap::new();
    for rpc in recorder.finished() {
        let stats = rpc.stats();
        let method = rpc.full_method().unwrap_or("_OTHER").to_owned();
        let figures = truth.entry((rpc.role().to_string(), method)).or_default();
        figures.finished += 1;
        figures.failed += u64::from(stats.failed());
        match stats.status().unwrap().is_ok() {
            true => figures.ok += 1,
            false => {
                *figures
                    .codes
                    .entry(stats.status().unwrap().to_string())
                    .or_default() += 1
            }
        }
        *figures
            .endings
            .entry(stats.ending().unwrap().to_string())
            .or_default() += 1;
        for (sum, traffic) in [
            (&mut figures.sent, stats.sent()),
            (&mut figures.received, stats.received()),
        ] {
            sum[0] += traffic.messages().unwrap_or_default();
            sum[1] += traffic.body_bytes().unwrap_or_default();
        }
    }
    assert!(truth.values().map(|figures| figures.finished).sum::<u64>() >= 2 * 9 * 20);

    let page = json(&live, "").await;
    assert_eq!(page["schema"], 1);
    assert_eq!(page["in_flight"]["total"], 0);
    let map = |value: &Value| -> BTreeMap<String, u64> {
        let map = value.as_object().unwrap().iter();
        map.map(|(key, count)| (key.clone(), count.as_u64().unwrap()))
            .collect()
    };
    let rows = page["methods"]["rows"].as_array().unwrap();
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap();
    let shown = rows.iter().map(|row| {
        assert_eq!(row["in_flight"], 0);
        let others: u64 = map(&row["codes"]).values().sum();
        assert_eq!(row["started"], number(row, "ok") + others);
        assert_eq!(row["windows"]["total"]["finished"], row["started"]);
        assert_eq!(row["windows"]["1m"]["failed"], row["failed"]);
        let key = (
            row["role"].as_str().unwrap().into(),
            row["method"].as_str().unwrap().into(),
        );
        let figures = Figures {
            finished: number(row, "started"),
            ok: number(row, "ok"),
            failed: number(row, "failed"),
            codes: map(&row["codes"]),
            endings: map(&row["endings"]),
            sent: [number(row, "sent_messages"), number(row, "sent_bytes")],
            received: [
                number(row, "received_messages"),
                number(row, "received_bytes"),
            ],
        };
        (key, figures)
    });
    assert_eq!(shown.collect::<BTreeMap<_, _>>(), truth);

    // Percentiles are of the recorder's durations, to the width of a bucket.
    let mut times: Vec<_> = recorder
        .finished()
        .iter()
        .filter(|rpc| {
            rpc.full_method() == Some("echo.Echo/UnaryEcho") && rpc.role().as_str() == "client"
        })
        .map(|rpc| rpc.stats().duration().unwrap().as_secs_f64())
        .collect();
    times.sort_by(f64::total_cmp);
    let total = &row(&page, "client", "echo.Echo/UnaryEcho")["windows"]["total"];
    let near = |shown: &Value, truth: f64| {
        let shown = shown.as_f64().unwrap();
        assert!(
            (shown - truth).abs() <= truth * 0.07 + 2e-6,
            "{shown} for {truth}"
        );
    };
    near(&total["p50"], times[(times.len() - 1) / 2]);
    assert_eq!(total["max"].as_f64(), times.last().copied());
}

#[tokio::test]
async fn in_flight_grows_and_shrinks_and_is_listed_oldest_first() {
    let live = open();
    let layer = TracerLayer::new(live.tracer());
    assert_eq!(json(&live, "").await["in_flight"]["total"], 0);
    let mut calls = hanging(layer, 300);
    let page = json(&live, "").await;
    let open = &page["in_flight"];
    assert_eq!(
        (&open["total"], &open["matching"], &open["left_out"]),
        (&300.into(), &300.into(), &100.into())
    );
    let listed = open["rpcs"].as_array().unwrap();
    assert_eq!(listed.len(), 200);
    let ages: Vec<_> = listed
        .iter()
        .map(|rpc| rpc["started"].as_f64().unwrap())
        .collect();
    // The wall clock is read for each of them.
    assert!(ages.is_sorted_by(|a, b| *a < b + 1e-3));
    assert_eq!(listed[0]["waiting_for"], "handler");
    assert_eq!(row(&page, "server", "a.B/Hang")["in_flight"], 300);
    assert_eq!(json(&live, "limit=7").await["in_flight"]["left_out"], 293);
    let shown = text(&live, "/").await;
    assert!(
        shown.contains("IN FLIGHT  300 of 300 match, oldest first, 100 left out"),
        "{shown}"
    );

    calls.truncate(10);
    let page = json(&live, "").await;
    assert_eq!(page["in_flight"]["total"], 10);
    let row = row(&page, "server", "a.B/Hang");
    assert_eq!(
        (&row["in_flight"], &row["endings"]["cancelled"]),
        (&10.into(), &290.into())
    );
    drop(calls);
    assert_eq!(json(&live, "").await["in_flight"]["total"], 0);
}

#[tokio::test]
async fn a_million_paths_and_names_of_any_length_make_no_more_rows() {
    let live = open();
    let layer = TracerLayer::new(live.tracer());
    let count = if cfg!(debug_assertions) {
        100_000
    } else {
        1_000_000
    };
    for number in 0..count {
        job(&layer, &format!("/bad.B/M{number}")).await;
    }
    let long = format!("/a.B/{}", "x".repeat(60_000));
    job(&layer, &long).await;
    // Methods that are answered have a row, whatever others have used up.
    for number in 0..3 {
        job(&layer, "/real.Service/Method").await;
        let _ = number;
    }
    let page = json(&live, "").await;
    // A NOT_FOUND is no failure of a server, and still has its code.
    let other = row(&page, "server", "_OTHER");
    assert_eq!(other["failed"], 0);
    assert_eq!(
        other["ok"], 2,
        "one of a long name, one before it was known"
    );
    assert!(other["codes"]["NOT_FOUND"].as_u64().unwrap() > count - 256);
    let rows = page["methods"]["rows"].as_array().unwrap();
    assert!(rows.len() <= 256, "{} rows", rows.len());
    assert!(row(&page, "server", "_OTHER")["started"].as_u64().unwrap() > count - 256);
    // The first was counted before it was known that the method exists.
    assert_eq!(row(&page, "server", "real.Service/Method")["started"], 2);
    let started: u64 = rows
        .iter()
        .map(|row| row["started"].as_u64().unwrap())
        .sum();
    assert_eq!(started, count + 4);
    assert!(page["samples"]["bytes"].as_u64() < page["samples"]["most_bytes"].as_u64());
    assert!(page.to_string().len() < 600_000);
    let _calls = hanging(layer, 300);
    let size = html(&live, "/").await.len();
    println!("a full page: {size} bytes");
    assert!(size < 50_000, "{size}");
    assert!(!text(&live, "/").await.contains(&"x".repeat(300)));
}

#[tokio::test]
async fn samples_have_an_end_however_large_they_are() {
    let live = open();
    let layer = TracerLayer::new(live.tracer());
    let service = ServiceBuilder::new().layer(layer.server());
    let mut service = service.service_fn(async |request: Request<()>| {
        let rpc = request.extensions().get::<RpcInfo>().unwrap();
        for number in 0..64 {
            rpc.set_tag(
                format!("{number}{}", "k".repeat(60_000)),
                "v".repeat(60_000),
            );
        }
        let error = format!("{}\u{202e}", "e".repeat(60_000));
        Err::<Response<String>, _>(std::io::Error::other(error))
    });
    for path in 0..20 {
        let request =
            Request::post(format!("/a.B/M{path}")).header("content-type", "application/grpc");
        let _ = service.call(request.body(()).unwrap()).await;
    }
    let page = json(&live, "").await;
    let rpc = &page["samples"]["rpcs"][0];
    assert!(rpc["error"].as_str().unwrap().len() <= 1_024 + 3);
    assert!(rpc["tags"].as_array().unwrap().len() <= 32);
    assert!(rpc.to_string().len() < 16_384, "{}", rpc.to_string().len());
}

#[tokio::test]
async fn what_a_peer_sends_is_text_and_cannot_turn_its_direction() {
    let live = open();
    let layer = TracerLayer::new(live.tracer());
    let path = "/<script>alert(1)</script>\u{202e}\n\u{1b}[31m\"onload='x";
    job(&layer, path).await;
    let service = ServiceBuilder::new().layer(layer.server());
    let service = service.service_fn(async |_: Job| pending::<Result<Done, Infallible>>().await);
    let _call = service.clone().call(Job(path.to_owned()));
    for uri in [
        "/",
        "/?q=%3Cscript%3E%22onfocus=x",
        "/?method=%3Cscript%3E*",
        "/?code=%3Cscript%3E",
    ] {
        let page = html(&live, uri).await;
        assert!(!page.contains("<script>"), "{uri}");
        assert!(!page.contains(['\u{202e}', '\u{1b}']), "{uri}");
        assert!(!page.contains("\"onfocus"), "{uri}");
    }
    assert!(
        html(&live, "/")
            .await
            .contains("/&lt;script&gt;alert(1)&lt;/script&gt;\\u{202e}\\n")
    );
    let shown = text(&live, "/").await;
    assert!(!shown.contains(['\u{202e}', '\u{1b}']) && shown.contains("\\u{1b}[31m"));
    let page = json(&live, "").await;
    let id = page["in_flight"]["rpcs"][0]["id"].as_str().unwrap();
    let page = html(&live, &format!("/?rpc={id}")).await;
    assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"));
}

#[tokio::test]
async fn a_guard_decides_what_is_seen() {
    let live =
        Live::new().guard(
            |parts| match parts.headers.get("x-who").map(HeaderValue::as_bytes) {
                Some(b"admin") => Access::Everything,
                Some(b"user") => Access::Figures,
                Some(b"bomb") => panic!("a guard that fails"),
                _ => Access::None,
            },
        );
    let layer = TracerLayer::new(live.tracer()).server();
    let layer = layer.caller(Endpoint::new("secret-caller").address("10.9.8.7:6"));
    let service = ServiceBuilder::new().layer(layer);
    let mut service = service.service_fn(async |request: Request<()>| {
        let rpc = request.extensions().get::<RpcInfo>().unwrap();
        rpc.set_tag("tenant", "secret-tag");
        rpc.record_with(
            Event::new("looked_up", Level::Base),
            Default::default(),
            "secret-info",
        );
        Err::<Response<String>, _>(std::io::Error::other("secret-error"))
    });
    let _ = service
        .call(Request::get("/reset/secret-path").body(()).unwrap())
        .await;
    let ask = |who: &'static str, uri: &str| {
        let mut request = get(uri);
        request
            .headers_mut()
            .insert("x-who", HeaderValue::from_static(who));
        let live = live.clone();
        async move { send(&live, request).await }
    };
    let page: Value = serde_json::from_str(&ask("admin", "/.json").await.body).unwrap();
    assert_eq!(
        row(&page, "server", "GET /reset/secret-path")["codes"]["none"],
        1
    );
    let id = page["samples"]["rpcs"][0]["id"].as_str().unwrap();
    let one = format!("/?rpc={id}");
    for format in ["text", "json", "html"] {
        for uri in [
            format!("/?format={format}"),
            format!("{one}&format={format}"),
        ] {
            let all = ask("admin", &uri).await;
            assert_eq!(all.status, 200);
            assert!(
                all.body.contains("secret-error") && all.body.contains("secret-path"),
                "{uri}"
            );
            let figures = ask("user", &uri).await;
            assert_eq!(figures.status, 200);
            assert!(
                !figures.body.contains("secret") && !figures.body.contains("10.9.8.7"),
                "{uri}"
            );
        }
    }
    let all = ask("admin", &one).await.body;
    for secret in ["secret-tag", "secret-info", "10.9.8.7:6"] {
        assert!(all.contains(secret), "{secret} in {all}");
    }
    // A filter must not answer what the page hides.
    for filter in ["peer=10.9", "tag=tenant=secret-tag", "q=tag:tenant"] {
        assert_eq!(
            ask("user", &format!("/?{filter}")).await.status,
            403,
            "{filter}"
        );
        assert_eq!(
            ask("admin", &format!("/?{filter}")).await.status,
            200,
            "{filter}"
        );
    }
    let matching = ask("user", "/.json?method=*secret*").await.body;
    let matching: Value = serde_json::from_str(&matching).unwrap();
    assert_eq!(matching["samples"]["matching"], 0);
    for uri in ["/", "/.json", "/app.js", "/watch", &one] {
        assert_eq!(ask("other", uri).await.status, 403);
        assert_eq!(ask("bomb", uri).await.status, 403);
    }
}

#[tokio::test]
async fn without_a_guard_only_this_machine_reads_and_only_under_a_known_host() {
    let live = Live::new().hosts(["shop.internal"]);
    assert_eq!(
        send(&live, get("/")).await.status,
        403,
        "the reader is unknown"
    );
    let from = |address: &str| {
        let mut request = get("/");
        let address: SocketAddr = address.parse().unwrap();
        request
            .extensions_mut()
            .insert(axum::extract::ConnectInfo(address));
        request
    };
    assert_eq!(send(&live, from("127.0.0.1:5")).await.status, 200);
    assert_eq!(send(&live, from("[::ffff:127.0.0.1]:5")).await.status, 200);
    assert_eq!(send(&live, from("10.1.2.3:5")).await.status, 403);
    for (host, status) in [
        ("localhost", 200),
        ("localhost:6680", 200),
        ("LOCALHOST.", 200),
        ("shop.localhost:1", 200),
        ("127.0.0.1:6680", 200),
        ("[::1]:6680", 200),
        ("10.1.2.3", 200),
        ("shop.internal:6680", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("evil.example:80:80", 421),
    ] {
        let mut request = from("127.0.0.1:5");
        request
            .headers_mut()
            .insert("host", HeaderValue::from_str(host).unwrap());
        assert_eq!(send(&live, request).await.status, status, "{host}");
    }
    let mut twice = from("127.0.0.1:5");
    twice
        .headers_mut()
        .append("host", HeaderValue::from_static("evil.example"));
    assert_eq!(send(&live, twice).await.status, 421);
    let mut other = from("127.0.0.1:5");
    *other.uri_mut() = "http://evil.example/".parse().unwrap();
    assert_eq!(send(&live, other).await.status, 421);
}

#[tokio::test]
async fn only_reading_is_possible_and_nothing_comes_from_elsewhere() {
    let live = open();
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let mut request = get("/");
        *request.method_mut() = method;
        assert_eq!(send(&live, request).await.status, 405);
    }
    for uri in [
        "/elsewhere",
        "/rpc/xyz",
        "/rpc/0",
        "/?rpc=77",
        "/../etc/passwd",
        "/rpc/",
    ] {
        assert_eq!(send(&live, get(uri)).await.status, 404, "{uri}");
    }
    assert_eq!(send(&live, get("/?color=red")).await.status, 400);
    let response = live.service().oneshot(get("/?format=html")).await.unwrap();
    let policy = response.headers()["content-security-policy"]
        .to_str()
        .unwrap();
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    let page = html(&live, "/").await;
    assert!(
        !page.contains("style=") && !page.contains("<style") && !page.contains("=\"http"),
        "{page}"
    );
    for (asset, kind) in [("app.js", "text/javascript"), ("style.css", "text/css")] {
        for uri in [format!("/{asset}"), format!("/?{asset}")] {
            assert!(send(&live, get(&uri)).await.kind.starts_with(kind), "{uri}");
        }
        assert!(page.contains(&format!("\"?{asset}\"")));
    }
}

#[tokio::test]
async fn headers_are_those_of_the_list_and_never_secret_ones() {
    let live = open()
        .headers([
            header::USER_AGENT,
            header::AUTHORIZATION,
            header::COOKIE,
            header::PROXY_AUTHORIZATION,
            http::HeaderName::from_static("x-key"),
        ])
        .trace_link("https://traces.example/{trace_id}");
    let service = ServiceBuilder::new().layer(TracerLayer::new(live.tracer()).server());
    let mut service = service
        .service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())));
    let mut key = HeaderValue::from_static("secret-4");
    key.set_sensitive(true);
    let request = Request::get("/")
        .header(
            "user-agent",
            "agent \u{7f}".replace('\u{7f}', &"x".repeat(60_000)),
        )
        .header("authorization", "secret-1")
        .header("cookie", "secret-2")
        .header("proxy-authorization", "secret-3")
        .header("x-key", key)
        .header("x-other", "secret-5")
        .header(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        );
    let _ = service.call(request.body(()).unwrap()).await;
    let page = json(&live, "").await;
    let id = page["samples"]["rpcs"][0]["id"].as_str().unwrap();
    let rpc = html(&live, &format!("/?rpc={id}")).await;
    assert!(rpc.contains("agent xxx") && !rpc.contains("secret") && rpc.len() < 10_000);
    assert!(rpc.contains("https://traces.example/4bf92f3577b34da6a3ce929d0e0e4736"));
}

#[tokio::test]
async fn filters_say_the_same_in_every_form() {
    let live = open();
    let layer = TracerLayer::new(live.tracer());
    for _ in 0..3 {
        job(&layer, "/shop.Cart/Add").await;
    }
    job(&layer, "/broken.Stock/Reserve").await;
    let calls = hanging(layer.clone(), 4);
    for (query, open, methods) in [
        ("", 4, 3),
        ("method=a.B/Hang", 4, 1),
        ("method=shop.*", 0, 1),
        ("q=hang", 0, 0),
        ("q=Hang", 4, 1),
        ("q=method:*.Cart/*", 0, 1),
        ("role=client", 0, 0),
        ("role=server&min=1h", 0, 3),
        ("max=1h", 4, 3),
        ("code=INTERNAL", 0, 3),
        ("ending=response", 0, 3),
        ("tag=tenant", 0, 3),
        ("peer=10.", 0, 3),
    ] {
        let page = json(&live, query).await;
        assert_eq!(page["in_flight"]["matching"], open, "{query}");
        assert_eq!(page["methods"]["matching"], methods, "{query}");
        let shown = text(&live, &format!("/?{query}")).await;
        assert!(
            shown.contains(&format!("IN FLIGHT  {open} of 4 match")),
            "{query} {shown}"
        );
        let shown = html(&live, &format!("/?{query}")).await;
        assert!(shown.contains(&format!("{open} of 4 match")), "{query}");
    }
    let shown = text(&live, "/?method=shop.Cart/Add").await;
    assert!(
        shown.contains("3 started, 3 ok, 0 failed, ended by response 3"),
        "{shown}"
    );
    let failed = json(&live, "code=internal").await;
    assert_eq!(failed["samples"]["matching"], 1);
    assert_eq!(
        failed["samples"]["rpcs"][0]["method"],
        "broken.Stock/Reserve"
    );
    assert_eq!(
        json(&live, "failed=1&ending=response").await["samples"]["matching"],
        1
    );
    drop(calls);
    assert_eq!(
        json(&live, "ending=cancelled").await["samples"]["matching"],
        4,
        "they were listed"
    );
}

#[tokio::test]
async fn one_rpc_has_the_calls_that_it_made_also_when_it_is_over() {
    let live = open();
    let layer = TracerLayer::new(live.tracer()).level(Level::Detailed);
    let inner = ServiceBuilder::new().layer(layer.clone().client());
    let inner = inner.service_fn(async |_: Request<()>| {
        Response::builder()
            .header("grpc-status", "14")
            .body(String::new())
    });
    let hang = Arc::new(tokio::sync::Semaphore::new(0));
    let outer = ServiceBuilder::new().layer(layer.server()).service_fn({
        let hang = Arc::clone(&hang);
        move |_: Request<()>| {
            let (mut inner, hang) = (inner.clone(), Arc::clone(&hang));
            async move {
                for _ in 0..2 {
                    let call = Request::post("/bank.Ledger/Hold")
                        .header("content-type", "application/grpc");
                    inner.call(call.body(()).unwrap()).await?;
                }
                let _ = hang.acquire().await;
                Response::builder()
                    .header("grpc-status", "0")
                    .body(String::new())
            }
        }
    });
    let request = Request::post("/shop.Stock/Reserve").header("content-type", "application/grpc");
    let call = tokio::spawn(outer.oneshot(request.body(()).unwrap()));
    let deadline = Instant::now() + Duration::from_secs(20);
    let id = loop {
        let page = json(&live, "method=shop.Stock/*").await;
        let id = page["in_flight"]["rpcs"][0]["id"].as_str().unwrap_or("0");
        let children = match send(&live, get(&format!("/.json?rpc={id}"))).await {
            answer if answer.status == 200 => serde_json::from_str(&answer.body).unwrap(),
            _ => Value::Null,
        };
        if children["children"]
            .as_array()
            .is_some_and(|all| all.len() == 2)
        {
            break id.to_owned();
        }
        assert!(Instant::now() < deadline, "{page}");
        tokio::task::yield_now().await;
    };
    let check = |rpc: &Value| {
        assert_eq!(rpc["method"], "shop.Stock/Reserve");
        let children = rpc["children"].as_array().unwrap();
        assert_eq!(children.len(), 2);
        for child in children {
            assert_eq!(
                (&child["method"], &child["role"]),
                (&"bank.Ledger/Hold".into(), &"client".into())
            );
            assert_eq!(
                (&child["status"], &child["failed"]),
                (&"UNAVAILABLE".into(), &true.into())
            );
            let end = child["at"].as_f64().unwrap() + child["seconds"].as_f64().unwrap();
            assert!(end <= rpc["seconds"].as_f64().unwrap());
        }
        assert!(children[0]["at"].as_f64() < children[1]["at"].as_f64());
    };
    let rpc = json(&live, &format!("rpc={id}")).await;
    assert_eq!(rpc["in_flight"], true);
    check(&rpc);
    hang.add_permits(1);
    call.await.unwrap().unwrap();
    let rpc = json(&live, &format!("rpc={id}")).await;
    assert_eq!(
        (&rpc["in_flight"], &rpc["status"]),
        (&false.into(), &"OK".into())
    );
    check(&rpc);
    let shown = html(&live, &format!("/?rpc={id}")).await;
    assert_eq!(shown.matches("bank.Ledger/Hold").count(), 2);
    let public = live.clone().guard(|_| Access::Figures);
    assert_eq!(
        json(&public, &format!("rpc={id}")).await["children"][0]["method"],
        "bank.Ledger/Hold"
    );
    assert!(
        text(&live, &format!("/rpc/{id}"))
            .await
            .starts_with("shop.Stock/Reserve  server")
    );
    let mut request = get(&format!("/rpc/{id}?format=html"));
    request
        .headers_mut()
        .insert("accept", HeaderValue::from_static("text/html"));
    let response = live.service().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["location"], format!("../?rpc={id}"));
    let below = json(&live, &format!("parent={id}")).await;
    assert_eq!(below["samples"]["rpcs"][0]["method"], "bank.Ledger/Hold");
}

/// Reads until the text is there.
async fn read_until(connection: &mut TcpStream, wanted: &str) -> String {
    let mut all = Vec::new();
    loop {
        let mut part = [0; 4_096];
        let length = connection.read(&mut part).await.unwrap();
        all.extend_from_slice(&part[..length]);
        let text = String::from_utf8_lossy(&all);
        if length == 0 || text.contains(wanted) {
            return text.into_owned();
        }
    }
}

async fn served(live: &Live) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(live.serve_on(listener));
    address
}

async fn requested(address: SocketAddr, path: &str) -> TcpStream {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    connection
}

#[tokio::test]
async fn who_watches_gets_what_matches_at_a_bounded_rate() {
    let live = Live::new();
    let layer = TracerLayer::new(live.tracer());
    let address = served(&live).await;
    let mut watch = requested(address, "/watch?method=a.B/*").await;
    let head = read_until(&mut watch, "event: progress").await;
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    job(&layer, "/other.Service/Method").await;
    job(&layer, "/a.B/First").await;
    let events = read_until(&mut watch, "\"method\":\"a.B/First\"").await;
    assert!(!events.contains("other.Service"), "{events}");
    for number in 0..1_000 {
        job(&layer, &format!("/a.B/M{}", number % 3)).await;
    }
    let events = read_until(&mut watch, "event: progress").await;
    assert!(events.matches("event: rpc").count() <= 300);
    let dropped = events
        .split("\"dropped\":")
        .nth(1)
        .and_then(|text| text.split(',').next());
    assert!(
        dropped.unwrap().parse::<u32>().unwrap() >= 700,
        "{dropped:?}"
    );

    // Who never reads changes nothing, and only so many may watch.
    let mut all = Vec::new();
    for _ in 0..15 {
        let mut watch = requested(address, "/watch").await;
        read_until(&mut watch, "event: progress").await;
        all.push(watch);
    }
    let refused = read_until(&mut requested(address, "/watch").await, "\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    for _ in 0..1_000 {
        job(&layer, "/a.B/First").await;
    }
    drop((watch, all));
    assert_eq!(
        json(&live.clone().guard(|_| Access::Everything), "").await["in_flight"]["total"],
        0
    );
    // The places are free again once the connections are seen to be closed.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = read_until(&mut requested(address, "/watch").await, "\r\n").await;
        if answer.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(Instant::now() < deadline, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_that_names_it() {
    let live = Live::new();
    let address = served(&live).await;
    let error = live.serve(address).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    // Over HTTP it is text for who does not ask for HTML.
    let mut connection = requested(address, "/").await;
    let answer = read_until(&mut connection, "SAMPLES").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("text/plain"),
        "{answer}"
    );
}

#[tokio::test]
async fn it_is_nested_in_a_router_of_axum() {
    let live = open();
    let router = axum::Router::new().nest_service("/debug/rpcs", live.service());
    for uri in [
        "/debug/rpcs",
        "/debug/rpcs/",
        "/debug/rpcs?format=html",
        "/debug/rpcs/app.js",
    ] {
        let request = Request::get(uri).header("host", "localhost");
        let request = request.body(axum::body::Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200, "{uri}");
    }
}

#[tokio::test]
async fn a_hundred_thousand_in_flight_are_tracked_and_listed_quickly() {
    let live = open();
    let calls = hanging(TracerLayer::new(live.tracer()), 100_000);
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let begin = Instant::now();
        let page = json(&live, "").await;
        best = best.min(begin.elapsed());
        assert_eq!(page["in_flight"]["total"], 100_000);
        assert_eq!(page["in_flight"]["untracked"], 0);
        assert_eq!(page["in_flight"]["left_out"], 99_800);
    }
    println!("a page of 100,000 in flight: {best:?}");
    let most = if cfg!(debug_assertions) { 3_000 } else { 100 };
    assert!(best < Duration::from_millis(most), "{best:?}");
    // What is too much is counted.
    let more = hanging(TracerLayer::new(live.tracer()), 20_000);
    let page = json(&live, "").await;
    assert_eq!(page["in_flight"]["total"], 120_000);
    assert!(page["in_flight"]["untracked"].as_u64().unwrap() > 10_000);
    drop((calls, more));
    let page = json(&live, "").await;
    assert_eq!(
        (&page["in_flight"]["total"], &page["in_flight"]["untracked"]),
        (&0.into(), &0.into())
    );
}

#[tokio::test]
async fn an_rpc_that_a_filter_takes_away_is_in_flight_no_more() {
    let live = open();
    let layer = TracerLayer::new(live.tracer().only_failed()).server();
    let service = ServiceBuilder::new().layer(layer);
    let mut service = service
        .service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())));
    let _ = service.call(Request::get("/").body(()).unwrap()).await;
    let page = json(&live, "").await;
    assert_eq!(page["in_flight"]["total"], 0);
    let row = row(&page, "server", "GET /");
    assert_eq!(
        (&row["started"], &row["ok"], &row["discarded"]),
        (&1.into(), &0.into(), &1.into())
    );
}

#[tokio::test]
async fn two_tracers_of_a_page_in_one_layer_track_an_rpc_once() {
    let live = open();
    let layer = TracerLayer::new((live.tracer(), live.tracer())).server();
    let service = ServiceBuilder::new().layer(layer);
    let service = service.service_fn(async |_: Job| pending::<Result<Done, Infallible>>().await);
    let call = service.clone().call(Job("/a.B/C".to_owned()));
    assert_eq!(json(&live, "").await["in_flight"]["total"], 1);
    drop(call);
    let page = json(&live, "").await;
    assert_eq!(page["in_flight"]["total"], 0);
    let row = row(&page, "server", "a.B/C");
    assert_eq!((&row["started"], &row["in_flight"]), (&2.into(), &0.into()));
}

/// Allocations of each of a thousand RPCs, without those of making the service.
fn allocations<T: tower_tracer::Tracer>(layer: &TracerLayer<T>) -> Vec<u64> {
    let one = || {
        let service = ServiceBuilder::new().layer(layer);
        let mut service = service.service_fn(async |_: Job| Ok::<_, Infallible>(Done(Code::Ok)));
        let job = Job("/a.B/C".to_owned());
        let measured = allocation_counter::measure(|| {
            let future = std::pin::pin!(service.call(job));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(future.poll(&mut context).is_ready());
        });
        measured.count_total
    };
    (0..1_000).map(|_| one()).collect()
}

#[test]
fn an_rpc_that_is_no_sample_allocates_nothing() {
    let empty = allocations(&TracerLayer::new(()).server());
    let empty = empty.iter().min().unwrap();
    // The first ones make rows and samples.
    let all = allocations(&TracerLayer::new(open().tracer()).server());
    let same = all.iter().filter(|count| *count == empty).count();
    assert!(same > 900, "{same} of 1000 RPCs make {empty}");
}

#[tokio::test]
async fn the_guard_sees_the_request_for_the_page() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let live = Live::new().guard({
        let seen = Arc::clone(&seen);
        move |parts| {
            seen.lock().unwrap().push(parts.uri.to_string());
            Access::Figures
        }
    });
    assert!(text(&live, "/?role=server").await.contains("IN FLIGHT"));
    assert_eq!(*seen.lock().unwrap(), ["/?role=server"]);
}

#[cfg(feature = "connection")]
#[tokio::test]
async fn connections_are_listed_with_their_rpcs_and_addresses_only_at_full_access() {
    use tower_tracer::connection::{Acceptor, Incoming};

    let live = open();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = Incoming::new(listener, live.tracer());
    let router = axum::Router::new()
        .route("/hangs", axum::routing::get(pending::<&'static str>))
        .layer(TracerLayer::new(live.tracer()).server());
    let service =
        router.into_make_service_with_connect_info::<tower_tracer::connection::ConnectionInfo>();
    tokio::spawn(async move { axum::serve(incoming, service).await });
    let connection = requested(address, "/hangs").await;
    let page = loop {
        let answer = send(&live, get("/connections.json")).await;
        let page: Value = serde_json::from_str(&answer.body).unwrap();
        // The connection knows of it before the page does.
        if page["open"][0]["rpcs"][0]["id"].is_string() {
            assert_eq!(page["open"][0]["rpcs_running"], 1);
            break page;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let peer = connection.local_addr().unwrap().to_string();
    assert_eq!(page["open"][0]["peer"], *peer);
    assert_eq!(page["open"][0]["tls"], false);
    assert_eq!(page["totals"]["server"]["open"], 1);
    let id = page["open"][0]["rpcs"][0]["id"].as_str().unwrap();
    let html = html(&live, "/?view=connections").await;
    assert!(
        html.contains(&peer) && html.contains(&format!("?rpc={id}")),
        "{html}"
    );
    assert!(text(&live, "/connections").await.contains(&peer));
    assert!(text(&live, &format!("/rpc/{id}")).await.contains("/hangs"));
    let figures = live.clone().guard(|_| Access::Figures);
    for form in ["html", "text", "json"] {
        let page = text(&figures, &format!("/?view=connections&format={form}")).await;
        assert!(!page.contains(&peer) && !page.contains("hangs"), "{page}");
        assert!(page.contains("server"), "{page}");
    }
    drop(connection);
    loop {
        let answer = send(&live, get("/connections.json")).await;
        let page: Value = serde_json::from_str(&answer.body).unwrap();
        if page["totals"]["server"]["open"] == 0 {
            assert_eq!(page["ended"][0]["end"], "peer_closed", "{page}");
            assert_eq!(page["totals"]["server"]["ends"]["peer_closed"], 1);
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // More than are tracked are counted, and 64 that ended are kept.
    let acceptor = Acceptor::new(live.tracer());
    let many: Vec<_> = (0..10_100)
        .map(|_| acceptor.accept_between(tokio::io::empty(), None, None))
        .collect();
    let answer = send(&live, get("/connections.json")).await;
    let page: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(page["totals"]["server"]["open"], 10_100);
    assert_eq!(page["open"].as_array().unwrap().len(), 200);
    assert_eq!(page["left_out"], 9_900);
    let page = self::html(&live, "/?view=connections").await;
    assert!(page.len() < 50_000, "{} bytes", page.len());
    drop(many);
    let answer = send(&live, get("/connections.json")).await;
    let page: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(page["totals"]["server"]["ends"]["handshake_failed"], 10_100);
    assert_eq!(page["ended"].as_array().unwrap().len(), 64);
    assert_eq!(page["open"].as_array().unwrap().len(), 0);
    assert_eq!(send(&live, get("/?view=else")).await.status, 400);
}
