//! A record as JSON, for both sides.

use serde_json::{Value, json};
use tower_tracer::{RpcInfo, rpc::Traffic};

pub fn json(rpc: &RpcInfo) -> Value {
    let stats = rpc.stats();
    let since_1970 = stats.start_time().duration_since(std::time::UNIX_EPOCH);
    json!({
        "role": rpc.role().to_string(),
        "protocol": format!("{:?}", rpc.protocol()),
        "method": rpc.full_method(),
        "timeout": rpc.timeout().map(|timeout| timeout.as_secs_f64()),
        "started": since_1970.unwrap_or_default().as_secs_f64(),
        "duration": stats.duration().map(|duration| duration.as_secs_f64()),
        "code": stats.code().map(|code| code.to_string()),
        "wire_status": stats.wire_status().map(|status| status.to_string()),
        "ending": stats.ending().map(|ending| ending.to_string()),
        "http_status": stats.http_status(),
        "failed": stats.failed(),
        "error": stats.error(),
        "request": traffic(&stats.request()),
        "response": traffic(&stats.response()),
    })
}

fn traffic(traffic: &Traffic) -> Value {
    json!({
        "messages": traffic.messages(),
        "message_bytes": traffic.message_bytes(),
        "last_message_bytes": traffic.last_message_bytes(),
        "body_bytes": traffic.body_bytes(),
        "complete": traffic.is_complete(),
    })
}
