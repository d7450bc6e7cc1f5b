//! Makes of the client's wasm what a page can import: `bindgen WASM FOLDER`. As a library wasm-bindgen has the
//! version of the lock file, which is the client's.

use wasm_bindgen_cli_support::Bindgen;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [wasm, folder] = &arguments[..] else {
        panic!("bindgen WASM FOLDER");
    };
    let mut bindgen = Bindgen::new();
    let bindgen = bindgen.input_path(wasm).web(true).unwrap();
    bindgen.typescript(false).generate(folder).unwrap();
}
