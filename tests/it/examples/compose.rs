//! The example `compose`: a stack from a file, swapped while a stream is running.

// `support::tcp` has the Echo service of the examples too.
#[allow(dead_code, clippy::duplicate_mod)]
#[path = "../../../examples/compose.rs"]
mod example;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

fn collect() -> (Arc<Mutex<Vec<String>>>, example::Print) {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let print = {
        let lines = Arc::clone(&lines);
        Arc::new(move |line| lines.lock().unwrap().push(line))
    };
    (lines, print)
}

#[tokio::test]
async fn a_stream_finishes_under_the_stack_it_started_with() {
    let (lines, print) = collect();
    let first = r#"
        [[tracer]]
        name = "count"
        prefix = "old:"
        skip = ["health", "reflection"]

        [[tracer]]
        name = "log"
        prefix = "old:"
        sample = 1

        [[tracer]]
        name = "log"
        prefix = "never:"
        failed = true
        slow_ms = 3600000
    "#;
    let run = example::run(first, example::NEXT, print);
    let ran = tokio::time::timeout(Duration::from_secs(10), run).await;
    ran.expect("done within ten seconds").unwrap();
    assert_eq!(
        *lines.lock().unwrap(),
        [
            "The stack is swapped; the stream goes on.",
            "new stack: echo.Echo/UnaryEcho OK, 1 sent",
            "old: echo.Echo/BidirectionalStreamingEcho OK, 2 sent",
            "old: 1 RPCs, 0 failed",
        ]
    );
}

#[test]
fn the_example_configuration_is_a_stack_of_three() {
    let stack =
        example::stack(include_str!("../../../examples/compose.toml"), &collect().1).unwrap();
    assert_eq!(stack.len(), 3);
}

#[test]
fn a_wrong_configuration_is_an_error_that_says_what_is_allowed() {
    for (toml, said) in [
        (
            "[[tracer]]\nname = 'log'\n[[tracer]]\nname = 'lag'",
            r#"tracer 2, "lag": unknown tracer; allowed are "log" and "count""#,
        ),
        (
            "[[tracer]]\nname = 'log'\nsample = 1.5",
            r#"tracer 1, "log": a sampling ratio is a number from 0 to 1, not 1.5"#,
        ),
        (
            "[[tracer]]\nname = 'count'\nsample = nan",
            r#"tracer 1, "count": a sampling ratio is a number from 0 to 1, not NaN"#,
        ),
        (
            "[[tracer]]\nname = 'log'\nskip = ['healthz']",
            r#"tracer 1, "log": cannot skip "healthz"; allowed are "health" and "reflection""#,
        ),
    ] {
        let error = example::stack(toml, &collect().1).unwrap_err();
        assert_eq!(error.to_string(), said);
    }
    // The parser reports an error with its place.
    let error = example::stack("[[tracer]]\nname = 'log'\nsampel = 1", &collect().1).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("line 3") && said.contains("unknown field `sampel`"),
        "{said}"
    );
    assert!(said.contains("`sample`"), "{said}");
}
