//! The table in `guide::endings` names tests that exist and say that they show that ending.

use std::{collections::BTreeMap, fs, path::Path};

/// Of each test function under `tests/`, the numbers of the endings that its comments name.
fn tests(folder: &Path, found: &mut BTreeMap<String, Vec<u32>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let mut endings = Vec::new();
            for line in fs::read_to_string(&path).unwrap().lines() {
                let line = line.trim();
                if line.starts_with("//") {
                    endings.extend(numbers(line));
                }
                let name = line.trim_start_matches("async ").strip_prefix("fn ");
                if let Some((name, _)) = name.and_then(|name| name.split_once('(')) {
                    found.insert(name.to_owned(), std::mem::take(&mut endings));
                }
            }
        }
    }
}

/// Each N of `Ending N.`
fn numbers(comment: &str) -> impl Iterator<Item = u32> {
    let after = comment.split("Ending ").skip(1);
    after.filter_map(|rest| rest.split_once('.')?.0.parse().ok())
}

#[test]
fn each_row_of_the_table_of_endings_names_a_test_that_shows_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut tests_of = BTreeMap::new();
    tests(&root.join("tests"), &mut tests_of);

    let table = fs::read_to_string(root.join("src/guide/endings.md")).unwrap();
    let mut rows = Vec::new();
    for line in table.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, number, _, _, test, _] = cells[..] else {
            continue;
        };
        let Ok(number) = number.parse::<u32>() else {
            continue;
        };
        let test = test.trim_matches('`');
        let shown = tests_of.get(test);
        assert!(shown.is_some(), "row {number}: no test is called {test}");
        assert!(
            shown.unwrap().contains(&number),
            "row {number}: {test} does not say `Ending {number}.`"
        );
        rows.push(number);
    }
    let expected: Vec<_> = (1..=54).collect();
    assert_eq!(rows, expected, "the rows of the table");
    let mut named: Vec<_> = tests_of.into_values().flatten().collect();
    named.sort_unstable();
    named.dedup();
    assert_eq!(named, rows, "the endings that tests say they show");
}
