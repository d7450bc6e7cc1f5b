//! Bodies of any kind pass the layer unchanged, and the record says what passed: compared with a
//! slow and obvious model.

use crate::support::model::{Plan, STATUSES, Side, check};
use crate::support::scripted::Step;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use proptest::{collection::vec, prelude::*, sample::select};
use tower_tracer::Role;

fn frame_of_a_message() -> impl Strategy<Value = Vec<u8>> {
    let flag = select(vec![0_u8, 0, 0, 1, 3, 60]);
    (flag, vec(any::<u8>(), 0..40), 0..30_u8).prop_map(|(flag, message, lie)| {
        // Now and then the prefix says more than follows.
        let more = if lie == 0 { 1_000_000_000 } else { 0 };
        let length = u32::try_from(message.len()).unwrap() + more;
        let mut frame = vec![flag];
        frame.extend(length.to_be_bytes());
        frame.extend(message);
        frame
    })
}

/// Messages as a stream of bytes, cut anywhere, also in the last one.
fn pieces() -> impl Strategy<Value = Vec<Bytes>> {
    let cuts = vec(any::<prop::sample::Index>(), 0..8);
    (vec(frame_of_a_message(), 0..6), cuts, 0..4_usize).prop_map(|(frames, cuts, lost)| {
        let mut bytes = frames.concat();
        if lost == 0 && !bytes.is_empty() {
            bytes.truncate(bytes.len() - 1);
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.push(0);
        cuts.push(bytes.len());
        // Two cuts in one place give an empty piece.
        cuts.sort_unstable();
        let pairs = cuts
            .windows(2)
            .map(|pair| Bytes::copy_from_slice(&bytes[pair[0]..pair[1]]));
        pairs.collect()
    })
}

fn interruption() -> impl Strategy<Value = Step> {
    let trailers = |status| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-other", HeaderValue::from_static("kept"));
        if let Some(status) = status {
            trailers.insert("grpc-status", HeaderValue::from_static(status));
        }
        Step::Trailers(trailers)
    };
    let codes = [
        None,
        Some(tonic::Code::Cancelled),
        Some(tonic::Code::DataLoss),
    ];
    prop_oneof![
        8 => Just(Step::Pending),
        3 => prop::option::weighted(0.9, select(STATUSES.to_vec())).prop_map(trailers),
        2 => select(codes.to_vec()).prop_map(Step::Error),
        1 => Just(Step::Panic),
    ]
}

fn side() -> impl Strategy<Value = Side> {
    let others = vec((any::<prop::sample::Index>(), interruption()), 0..5);
    (pieces(), others, any::<bool>(), 0..30_usize).prop_map(|(pieces, others, tells, polls)| {
        let mut body: Vec<_> = pieces.into_iter().map(Step::Data).collect();
        for (place, step) in others {
            // Trailers are mostly last, as they should be.
            let last = matches!(step, Step::Trailers(_)) && polls % 4 != 0;
            let place = if last {
                body.len()
            } else {
                place.index(body.len() + 1)
            };
            body.insert(place, step);
        }
        Side { body, tells, polls }
    })
}

fn plan() -> impl Strategy<Value = Plan> {
    let grpc = "application/grpc";
    let fixed = (
        select(vec![Role::Client, Role::Server]),
        select(vec![grpc, grpc, "application/grpc+proto", "text/plain"]),
        select(vec![grpc, grpc, "text/html"]),
        select(vec![200_u16, 200, 200, 404, 503]),
        prop::option::weighted(0.1, select(STATUSES.to_vec())),
    );
    (fixed, side(), side(), vec(any::<bool>(), 60), any::<bool>()).prop_map(
        |(fixed, request, response, order, request_goes_first)| {
            let (role, request_type, response_type, http_status, header_status) = fixed;
            Plan {
                role,
                request_type,
                response_type,
                http_status,
                header_status,
                request,
                response,
                order,
                request_goes_first,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    // Ending 7. Ending 9. Ending 19. Ending 32. Ending 33.
    #[test]
    fn bodies_pass_unchanged_and_the_record_says_what_passed(plan in plan()) {
        check(&plan);
    }
}
