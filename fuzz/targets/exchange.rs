//! Whole exchanges: both bodies follow a script of data, pauses, trailers, errors and panics, are polled in
//! any order and dropped anywhere. Compared with the slow model, with the shortcuts and without them.
#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use tower_tracer::{Role, testing::set_fast_path};
use tower_tracer_fuzz::{
    model::{self, Plan, STATUSES, Side},
    pick, pieces,
    scripted::Step,
};

fn trailers(status: Option<&'static str>) -> Step {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-other", HeaderValue::from_static("kept"));
    if let Some(status) = status {
        trailers.insert("grpc-status", HeaderValue::from_static(status));
    }
    Step::Trailers(trailers)
}

fn body(u: &mut Unstructured<'_>) -> Result<Vec<Step>> {
    let mut bytes = Vec::new();
    for _ in 0..u.int_in_range(0..=4)? {
        let length: u8 = u.int_in_range(0..=40)?;
        // Now and then the prefix says more than follows.
        let announced = match u.ratio(1, 16)? {
            true => u.arbitrary()?,
            false => u32::from(length),
        };
        bytes.push(pick(u, &[0, 0, 1, 60])?);
        bytes.extend(announced.to_be_bytes());
        bytes.resize(bytes.len() + usize::from(length), 7);
    }
    if u.ratio(1, 4)? {
        bytes.pop();
    }
    let mut body: Vec<_> = pieces(u, &bytes)?.into_iter().map(Step::Data).collect();
    for _ in 0..u.int_in_range(0..=4)? {
        let step = match u.int_in_range(0..=12)? {
            0..=5 => Step::Pending,
            6..=8 => trailers(u.choose(&STATUSES).ok().copied()),
            9 => trailers(None),
            10 => Step::Error(None),
            11 => Step::Error(Some(pick(
                u,
                &[tonic::Code::Cancelled, tonic::Code::DataLoss],
            )?)),
            _ => Step::Panic,
        };
        body.insert(u.int_in_range(0..=body.len())?, step);
    }
    Ok(body)
}

fn side(u: &mut Unstructured<'_>) -> Result<Side> {
    Ok(Side {
        body: body(u)?,
        tells: u.arbitrary()?,
        polls: u.int_in_range(0..=29)?,
    })
}

fn plan(u: &mut Unstructured<'_>) -> Result<Plan> {
    let grpc = "application/grpc";
    Ok(Plan {
        role: pick(u, &[Role::Client, Role::Server])?,
        request_type: pick(u, &[grpc, grpc, "application/grpc+proto", "text/plain"])?,
        response_type: pick(u, &[grpc, grpc, "text/html"])?,
        http_status: pick(u, &[200, 200, 200, 404, 503])?,
        header_status: match u.ratio(1, 8)? {
            true => Some(pick(u, &STATUSES)?),
            false => None,
        },
        request: side(u)?,
        response: side(u)?,
        request_goes_first: u.arbitrary()?,
        order: (0..60).map(|_| u.arbitrary()).collect::<Result<_>>()?,
    })
}

fuzz_target!(|data: &[u8]| {
    if let Ok(plan) = plan(&mut Unstructured::new(data)) {
        for fast_path in [true, false] {
            set_fast_path(fast_path);
            model::check(&plan);
        }
    }
});
