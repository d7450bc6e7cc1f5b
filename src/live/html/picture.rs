//! Small pictures in SVG, which need neither a script nor a style.

use maud::{Markup, html};

use crate::live::schema::SampleCounts;

/// A line of figures over time.
pub(super) fn sparkline(figures: &[f64]) -> Markup {
    const WIDTH: f64 = 90.0;
    const HEIGHT: f64 = 18.0;
    let most = figures.iter().copied().fold(0.0, f64::max);
    let step = WIDTH / (figures.len().max(2) - 1) as f64;
    let points: Vec<_> = figures
        .iter()
        .enumerate()
        .map(|(index, figure)| {
            let part = if most > 0.0 { figure / most } else { 0.0 };
            let (x, y) = (index as f64 * step, HEIGHT - 2.0 - part * (HEIGHT - 4.0));
            format!("{x:.0},{y:.0}")
        })
        .collect();
    html! {
        svg.spark width=(WIDTH) height=(HEIGHT) aria-hidden="true" {
            @if figures.len() > 1 {
                polyline points=(points.join(" ")) {}
            }
        }
    }
}

/// How many samples there are by latency, and how many of failures.
pub(super) fn buckets(samples: &SampleCounts) -> Markup {
    let latency = samples.latency.iter().enumerate();
    let (slow, quick): (Vec<_>, Vec<_>) = latency
        .map(|(index, bucket)| (bucket.from >= 1.0, (index, bucket.samples)))
        .partition(|(slow, _)| *slow);
    let failed = (samples.latency.len(), samples.failed);
    html! {
        svg.dist width="80" height="18" aria-hidden="true" {
            path d=(bars(quick.into_iter().map(|(_, bar)| bar))) {}
            path.s d=(bars(slow.into_iter().map(|(_, bar)| bar))) {}
            path.e d=(bars([failed].into_iter())) {}
        }
    }
}

/// The outline of bars at these places.
fn bars(bars: impl Iterator<Item = (usize, usize)>) -> String {
    let bars = bars.map(|(index, count)| {
        let height = match count {
            0 => 1,
            count => (count * 18 / 10).clamp(3, 18),
        };
        format!("M{} 18v-{height}h7v{height}z", index * 8)
    });
    bars.collect()
}

/// A bar on a time line of 1000 steps, and marks on it.
pub(super) fn track(from: f64, to: f64, class: &str, marks: &[(f64, String)]) -> Markup {
    let place = |part: f64| (part.clamp(0.0, 1.0) * 1e4).round() / 10.0;
    let (x, end) = (place(from), place(to));
    html! {
        svg.track viewBox="0 0 1000 16" preserveAspectRatio="none" aria-hidden="true" {
            rect class=(class) x=(x) y="2" width=((end - x).max(2.0)) height="12" rx="2" {}
            @for (at, name) in marks {
                rect.mark x=(place(*at).min(998.0)) y="0" width="2" height="16" { title { (name) } }
            }
        }
    }
}
