//! A type without `impl Tracer`.
// error: `My` is not a tracer
// at: My
// note: implement `tower_tracer::Tracer` for it

struct My;

fn main() {
    let _ = tower_tracer::TracerLayer::new(My);
}
