//! What is listed, how large a page is, and whether the schema of its JSON is the documented one.

use std::{collections::BTreeSet, convert::Infallible, future::pending};

use http::{Request, Response};
use serde_json::Value;
use tower::{Service as _, ServiceBuilder};
use tower_tracer::{Event, Level, RpcInfo, TracerLayer, live::Live, rpc::Endpoint};

use super::{Done, Job, get, hanging, html, job, json, open, send, text};

/// RPCs of one method that hang, with a peer.
fn hanging_at(
    live: &Live,
    path: &str,
    count: usize,
) -> Vec<impl Future<Output = Result<Done, Infallible>> + use<>> {
    let layer = TracerLayer::new(live.tracer()).server();
    let layer = layer.caller(Endpoint::new("caller").address("10.1.4.177:52311"));
    let service = ServiceBuilder::new().layer(layer);
    let service = service.service_fn(async |_: Job| pending::<Result<Done, Infallible>>().await);
    let calls = (0..count).map(|_| service.clone().call(Job(path.to_owned())));
    calls.collect()
}

#[tokio::test]
async fn each_form_lists_two_hundred_and_says_how_many_are_left_out() {
    let live = open();
    let _calls = hanging_at(&live, "/shop.inventory.v1.StockService/Reserve", 300);
    for number in 0..60 {
        job(
            &TracerLayer::new(live.tracer()),
            &format!("/shop.inventory.Stock/M{number}"),
        )
        .await;
    }
    let page = html(&live, "/").await;
    if let Ok(path) = std::env::var("KEEP_PAGE") {
        std::fs::write(path, &page).unwrap();
    }
    assert_eq!(page.matches("<td>10.1.4.177:52311").count(), 200);
    assert!(page.contains("300 of 300 match · 100 left out"));
    println!("a full page: {} bytes", page.len());
    assert!(page.len() < 50_000, "{}", page.len());
    let [script, style] = ["/app.js", "/style.css"].map(|asset| send(&live, get(asset)));
    let size = script.await.body.len() + style.await.body.len();
    assert!(size < 12_000, "{size} bytes of script and style");
    // Methods and samples have what is left, and say what they leave out.
    let rows = page.matches("class=\"spark\"").count();
    assert!((5..=30).contains(&rows), "{rows}");
    assert!(page.contains(&format!("61 of 61 match · {} left out", 61 - rows)));
    let page = html(&live, "/?limit=20").await;
    assert_eq!(page.matches("<td>10.1.4.177:52311").count(), 20);
    assert_eq!(page.matches("class=\"spark\"").count(), 30);

    let page = text(&live, "/").await;
    assert_eq!(page.matches("10.1.4.177:52311").count(), 200);
    assert!(page.contains("300 of 300 match, oldest first, 100 left out"));
    let page = json(&live, "").await;
    assert_eq!(page["in_flight"]["rpcs"].as_array().unwrap().len(), 200);
    assert_eq!(page["in_flight"]["left_out"], 100);
}

#[tokio::test]
async fn a_page_is_never_larger_whatever_the_names_are() {
    let live = open();
    let long = format!("/{}.B/{}", "<".repeat(90), "&".repeat(60_000));
    let mut calls = hanging_at(&live, &long, 300);
    for number in 0..100 {
        let path = format!("/{}.B/M{number}", "long".repeat(30));
        calls.extend(hanging_at(&live, &path, 1));
        job(&TracerLayer::new(live.tracer()), &path).await;
        job(
            &TracerLayer::new(live.tracer()),
            &format!("/broken.{number}{long}"),
        )
        .await;
    }
    let every_status = format!("/{}", "'%22&".repeat(50));
    let service = ServiceBuilder::new().layer(TracerLayer::new(live.tracer()).server());
    let mut service = service.service_fn(async |request: Request<u16>| {
        let response = Response::builder().status(*request.body());
        Ok::<_, Infallible>(response.body(String::new()).unwrap())
    });
    for status in 400..1_000 {
        let request = Request::get(&every_status).body(status).unwrap();
        let _ = service.call(request).await;
    }
    let filter = format!("/?q={}", "%3C".repeat(600));
    for uri in ["/", "/?limit=20", "/?method=GET*", "/?failed=1", &filter] {
        let size = html(&live, uri).await.len();
        assert!(size < 50_000, "{size} bytes of {uri}");
    }
    assert!(html(&live, "/?limit=20").await.contains("class=\"spark\""));
}

/// All keys of a value, with those in lists and objects.
fn keys(value: &Value, skip: &[&str], found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                found.insert(key.clone());
                if !skip.contains(&&**key) {
                    keys(value, skip, found);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, skip, found)),
        _ => {}
    }
}

/// What is between backticks, or between quotes before a colon.
fn named(text: &str, quotes: char) -> BTreeSet<String> {
    let parts = text.split(quotes).skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

/// The part of the documentation between two texts.
fn documented(from: &str, to: &str) -> &'static str {
    let all = include_str!("../../../src/live/live.md");
    let (_, rest) = all.split_once(from).unwrap();
    rest.split_once(to).unwrap().0
}

#[tokio::test]
async fn the_schema_of_the_json_is_the_documented_one() {
    let live = open()
        .peer("other", "http://10.0.0.1/")
        .headers([http::header::USER_AGENT])
        .trace_link("https://traces.example/{trace_id}");
    let layer = TracerLayer::new(live.tracer()).level(Level::Detailed);
    let inner = ServiceBuilder::new().layer(layer.clone().client());
    let inner =
        inner.service_fn(async |_: Request<()>| Ok::<_, String>(Response::new(String::new())));
    let service = ServiceBuilder::new().layer(layer.clone().server());
    let mut service = service.service_fn(move |request: Request<()>| {
        let mut inner = inner.clone();
        async move {
            let rpc = request.extensions().get::<RpcInfo>().unwrap();
            rpc.set_tag("tenant", "blue");
            rpc.record_with(
                Event::new("looked_up", Level::Base),
                Default::default(),
                "found",
            );
            inner
                .call(Request::post("/bank.Ledger/Hold").body(()).unwrap())
                .await?;
            Err::<Response<String>, _>("no room".to_owned())
        }
    });
    let request = Request::post("/shop.Cart/Add")
        .header("content-type", "application/grpc")
        .header("user-agent", "test")
        .header(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        );
    let _ = service.call(request.body(()).unwrap()).await;
    let _calls = hanging(layer, 3);

    let page = json(&live, "").await;
    let mut shown = BTreeSet::new();
    // Keys that peers choose, and what is described apart.
    keys(
        &page,
        &["figures", "windows", "codes", "endings", "rpcs"],
        &mut shown,
    );
    let mut overview = named(documented("```json", "```"), '"');
    // The values and keys that stand for others.
    for example in [
        "shop",
        "0.1.0",
        "everything",
        "…",
        "10s",
        "1m",
        "1h",
        "total",
        "server",
        "shop.Cart/Add",
        "NOT_FOUND",
        "trailers",
        "18",
    ] {
        overview.remove(example);
    }
    overview.insert("total".to_owned());
    assert_eq!(shown, overview);

    let figures = page["figures"].as_object().unwrap();
    let windows: Vec<_> = figures.keys().map(String::as_str).collect();
    assert_eq!(windows, ["10s", "1h", "1m", "total"]);
    for window in figures.values() {
        let mut shown = BTreeSet::new();
        keys(window, &[], &mut shown);
        let mut window = named(documented("A `WINDOW` has", "An `RPC` has"), '`');
        window.retain(|name| name != "WINDOW");
        assert_eq!(shown, window);
    }

    let mut samples = page["samples"]["rpcs"].as_array().unwrap().iter();
    let sample = samples.find(|rpc| rpc["method"] == "shop.Cart/Add");
    let id = sample.unwrap()["id"].as_str().unwrap();
    let rpc = json(&live, &format!("rpc={id}")).await;
    let mut shown = BTreeSet::new();
    keys(&rpc, &[], &mut shown);
    assert_eq!(
        shown,
        named(documented("An `RPC` has", "The page of connections"), '`')
    );
    // In flight and over, RPCs have the same fields, but for empty lists.
    let mut listed = BTreeSet::new();
    keys(&page["in_flight"]["rpcs"], &[], &mut listed);
    assert!(listed.is_subset(&shown), "{listed:?}");
}
