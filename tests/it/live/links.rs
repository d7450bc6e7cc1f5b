//! A server's RPC is below the client call that made it, if both are on the page and a `traceparent` crosses
//! the wire.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use serde_json::Value;
use tokio::sync::Semaphore;
use tower::{ServiceBuilder, ServiceExt as _, util::BoxCloneService};
use tower_tracer::{TracerLayer, live::Live};

use super::{get, json, open, send, text};

type Service = BoxCloneService<Request<()>, (), http::Error>;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn request(path: &str, parent: &str) -> Request<()> {
    let request = Request::post(path).header("content-type", "application/grpc");
    let request = match parent {
        "" => request,
        parent => request.header("traceparent", parent),
    };
    request.body(()).unwrap()
}

fn ok() -> Result<Response<String>, http::Error> {
    let response = Response::builder().header("grpc-status", "0");
    response.body(String::new())
}

/// A client, and behind it a server that makes a call and then hangs until there is a permit.
fn client_and_server(live: &Live) -> (Service, Service, Arc<Semaphore>) {
    let layer = || TracerLayer::new(live.tracer());
    let inner = ServiceBuilder::new().layer(layer().client());
    let inner = inner.service_fn(async |_: Request<()>| ok());
    let permits = Arc::new(Semaphore::new(0));
    let server = ServiceBuilder::new().layer(layer().server()).service_fn({
        let permits = Arc::clone(&permits);
        move |_: Request<()>| {
            let (inner, permits) = (inner.clone(), Arc::clone(&permits));
            async move {
                inner.oneshot(request("/bank.Ledger/Hold", "")).await?;
                permits.acquire().await.unwrap().forget();
                ok()
            }
        }
    });
    let server = Service::new(server.map_response(drop));
    let client = ServiceBuilder::new().layer(layer().client()).service_fn({
        let server = server.clone();
        move |sent: Request<()>| {
            let server = server.clone();
            async move {
                // The wire: headers cross it, and nothing else does.
                let parent = sent.headers().get("traceparent");
                let parent = parent.map_or("", |parent| parent.to_str().unwrap());
                let received = request(sent.uri().path(), parent);
                tokio::spawn(server.oneshot(received)).await.unwrap()?;
                ok()
            }
        }
    });
    (Service::new(client.map_response(drop)), server, permits)
}

/// The RPCs in flight, once there are so many, of which the server's have made their calls.
async fn in_flight(live: &Live, count: usize) -> Vec<Value> {
    for _ in 0..2_000 {
        let page = json(live, "").await;
        let rpcs = page["in_flight"]["rpcs"].as_array().unwrap();
        if rpcs.len() == count && rpcs.iter().all(|rpc| rpc["method"] == "shop.Cart/Add") {
            return rpcs.clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never {count} in flight");
}

fn of<'a>(rpcs: &'a [Value], role: &str) -> &'a Value {
    rpcs.iter().find(|rpc| rpc["role"] == role).unwrap()
}

fn linked() -> Live {
    open().trace_link("https://traces.example/{trace_id}")
}

#[tokio::test]
async fn a_servers_rpc_is_below_the_client_call_that_made_it() {
    let live = linked();
    let (client, _, permits) = client_and_server(&live);
    let call = tokio::spawn(client.oneshot(request("/shop.Cart/Add", PARENT)));
    let rpcs = in_flight(&live, 2).await;
    let id = of(&rpcs, "client")["id"].as_str().unwrap().to_owned();
    assert_eq!(of(&rpcs, "server")["parent"], *id);
    assert_eq!(of(&rpcs, "client")["parent"], Value::Null);

    let check = |rpc: &Value, in_flight: bool| {
        assert_eq!(rpc["in_flight"], in_flight);
        let children = rpc["children"].as_array().unwrap();
        assert_eq!(children.len(), 1, "{rpc}");
        let server = &children[0];
        assert_eq!(
            (&server["role"], &server["method"], &server["in_flight"]),
            (&"server".into(), &"shop.Cart/Add".into(), &in_flight.into())
        );
        let calls = server["children"].as_array().unwrap();
        assert_eq!(calls.len(), 1, "{server}");
        assert_eq!(
            (&calls[0]["role"], &calls[0]["method"], &calls[0]["status"]),
            (&"client".into(), &"bank.Ledger/Hold".into(), &"OK".into())
        );
        // While both run, they are read one after the other.
        let end = server["at"].as_f64().unwrap() + server["seconds"].as_f64().unwrap();
        assert!(
            in_flight || end <= rpc["seconds"].as_f64().unwrap() + 1e-3,
            "{rpc}"
        );
    };
    check(&json(&live, &format!("rpc={id}")).await, true);
    let shown = text(&live, &format!("/rpc/{id}")).await;
    assert!(
        shown.contains("running") && shown.contains("  bank.Ledger/Hold"),
        "{shown}"
    );
    permits.add_permits(1);
    call.await.unwrap().unwrap();
    let rpc = json(&live, &format!("rpc={id}")).await;
    check(&rpc, false);
    assert_eq!(rpc["children"][0]["status"], "OK");
}

#[tokio::test]
async fn a_call_that_ends_first_still_has_the_rpc_that_serves_it() {
    let live = linked();
    let (client, _, permits) = client_and_server(&live);
    let call = tokio::spawn(client.oneshot(request("/shop.Cart/Add", PARENT)));
    let rpcs = in_flight(&live, 2).await;
    let id = of(&rpcs, "client")["id"].as_str().unwrap().to_owned();
    call.abort();
    let rpcs = in_flight(&live, 1).await;
    assert_eq!(
        (&rpcs[0]["role"], &rpcs[0]["parent"]),
        (&"server".into(), &(*id).into())
    );
    permits.add_permits(1);
    in_flight(&live, 0).await;
    let rpc = json(&live, &format!("rpc={id}")).await;
    assert_eq!(
        (&rpc["ending"], &rpc["in_flight"]),
        (&"cancelled".into(), &false.into())
    );
    let server = &rpc["children"][0];
    // Nothing more is known of it there.
    assert_eq!(
        (&server["in_flight"], &server["ending"]),
        (&true.into(), &Value::Null)
    );
    let rest = rpc["seconds"].as_f64().unwrap() - server["at"].as_f64().unwrap();
    assert!(
        (server["seconds"].as_f64().unwrap() - rest).abs() < 1e-6,
        "{rpc}"
    );
}

#[tokio::test]
async fn only_what_a_running_call_has_sent_links() {
    let live = linked();
    let (client, server, permits) = client_and_server(&live);
    permits.add_permits(1);
    client
        .oneshot(request("/shop.Cart/Add", PARENT))
        .await
        .unwrap();
    let other = PARENT.replace("02b7", "02b8");
    let parents = [PARENT, &other, "00-banana", "", &"x".repeat(60_000)];
    let calls = parents
        .map(|parent| tokio::spawn(server.clone().oneshot(request("/shop.Cart/Add", parent))));
    let rpcs = in_flight(&live, parents.len()).await;
    assert!(
        rpcs.iter().all(|rpc| rpc["parent"] == Value::Null),
        "{rpcs:?}"
    );
    permits.add_permits(parents.len());
    for call in calls {
        call.await.unwrap().unwrap();
    }

    // Without a link to traces no header is read.
    let live = open();
    let (client, _, permits) = client_and_server(&live);
    let call = tokio::spawn(client.oneshot(request("/shop.Cart/Add", PARENT)));
    let rpcs = in_flight(&live, 2).await;
    assert!(
        rpcs.iter().all(|rpc| rpc["parent"] == Value::Null),
        "{rpcs:?}"
    );
    permits.add_permits(1);
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn any_number_of_rpcs_with_one_parent_take_no_more_room() {
    let live = linked();
    let (client, server, permits) = client_and_server(&live);
    let call = tokio::spawn(client.oneshot(request("/shop.Cart/Add", PARENT)));
    let id = of(&in_flight(&live, 2).await, "client")["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let calls: Vec<_> = (0..100)
        .map(|_| tokio::spawn(server.clone().oneshot(request("/shop.Cart/Add", PARENT))))
        .collect();
    in_flight(&live, 102).await;
    permits.add_permits(101);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    call.await.unwrap().unwrap();
    let rpc = json(&live, &format!("rpc={id}")).await;
    let children = rpc["children"].as_array().unwrap();
    assert_eq!(children.len(), 32);
    assert!(rpc["children_left_out"].as_u64().unwrap() >= 69, "{rpc}");
    let page = send(&live, get(&format!("/?rpc={id}&format=html"))).await;
    assert!(page.body.len() < 50_000);
}
