//! gRPC's messages, whatever the bytes are and however they are split: compared with the slow model.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use tower_tracer::Role;
use tower_tracer_fuzz::{
    model::{self, Plan, Side},
    pick, pieces,
    scripted::Step,
};

fn plan(data: &[u8]) -> Result<Plan> {
    // The choices come from the front, the body is the rest.
    let (choices, body) = data.split_at(data.len().min(24));
    let u = &mut Unstructured::new(choices);
    let role = pick(u, &[Role::Client, Role::Server])?;
    let tells = u.arbitrary()?;
    let bytes = pieces(u, body)?;
    let polls = bytes.len() + 1;
    let side = Side {
        body: bytes.into_iter().map(Step::Data).collect(),
        tells,
        polls,
    };
    Ok(Plan {
        role,
        request_type: "application/grpc",
        response_type: "application/grpc",
        http_status: 200,
        header_status: None,
        request: side.clone(),
        response: side,
        order: [false, true].repeat(polls),
        request_goes_first: true,
    })
}

fuzz_target!(|data: &[u8]| {
    if let Ok(plan) = plan(data) {
        model::check(&plan);
    }
});
