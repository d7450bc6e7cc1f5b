//! A custom tracer that writes to InfluxDB: the tracer is in `tracer.rs`.
//!
//! ```text
//! influx -execute 'CREATE DATABASE rpc'
//! cargo run -p examples --example influxdb --features influxdb -- [ROUNDS] [STORE]
//! influx -database rpc -execute 'SELECT count(cost_ns) FROM rpc GROUP BY role, method, code'
//! ```

#[path = "../echo/mod.rs"]
mod echo;
#[path = "../load/mod.rs"]
mod load;
#[allow(dead_code, unreachable_pub)]
mod tracer;

use std::error::Error;

use tower_tracer::{TracerLayer, methods::KnownMethods};
use tracer::{InfluxWriter, Settings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(10), |n| n.parse())?;
    let store = arguments
        .next()
        .unwrap_or("http://127.0.0.1:8086/write?db=rpc&precision=ns".to_owned());

    let (tracer, writer) = InfluxWriter::start(Settings {
        methods: KnownMethods::new(load::METHODS),
        ..Settings::new(store.parse()?)
    });
    let server = load::serve(TracerLayer::new(tracer.clone()).server()).await?;
    let channel = load::connect(&server.uri, TracerLayer::new(tracer).client()).await?;
    load::rounds(&channel, rounds).await?;
    drop(channel);
    server.end().await;

    let [written, dropped, rejected, lost] = writer.shutdown().await.all();
    println!("written {written}, dropped {dropped}, rejected {rejected}, lost {lost}");
    Ok(())
}
