//! How figures and texts of peers are written.

use std::{borrow::Cow, time::Duration};

/// At most `longest` bytes of a text that a peer can shape, with characters that control the output, or
/// turn its direction, escaped. What was cut is marked.
pub(super) fn visible(text: &str, longest: usize) -> Cow<'_, str> {
    let shown = crate::text::escape(text, longest);
    if text.len() > longest {
        return Cow::Owned(shown.into_owned() + "…");
    }
    shown
}

/// A duration for a person: three digits and a unit, or two units.
pub(super) fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let seconds = duration.as_secs();
    match seconds {
        0 if nanos == 0 => "0".to_owned(),
        0 if nanos < 1_000 => format!("{nanos} ns"),
        0 if nanos < 1_000_000 => digits(nanos as f64 / 1e3, "µs"),
        0 => digits(nanos as f64 / 1e6, "ms"),
        1..60 => digits(duration.as_secs_f64(), "s"),
        60..3_600 => two(seconds, 60, "min", 1, "s"),
        3_600..86_400 => two(seconds, 3_600, "h", 60, "min"),
        _ => two(seconds, 86_400, "d", 3_600, "h"),
    }
}

/// Of a time in seconds.
pub(super) fn seconds(seconds: f64) -> String {
    let positive = Duration::try_from_secs_f64(seconds.abs()).unwrap_or_default();
    let sign = if seconds < 0.0 { "-" } else { "" };
    format!("{sign}{}", duration(positive))
}

fn digits(value: f64, unit: &str) -> String {
    if value < 9.95 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

fn two(seconds: u64, big: u64, big_unit: &str, small: u64, small_unit: &str) -> String {
    let (whole, rest) = (seconds / big, seconds % big / small);
    match rest {
        0 => format!("{whole} {big_unit}"),
        _ => format!("{whole} {big_unit} {rest} {small_unit}"),
    }
}

/// A number of bytes for a person.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in units {
        if value < 999.5 {
            break;
        }
        value /= 1e3;
        unit = larger;
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => digits(value, unit),
    }
}

/// A count with a thin space between its thousands.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() + 8);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digits.len() > 4 {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// How many in a second.
pub(super) fn rate(rate: f64) -> String {
    if rate == 0.0 {
        "0".to_owned()
    } else if rate < 9.95 {
        format!("{rate:.1} /s")
    } else {
        format!("{} /s", count(rate.round() as u64))
    }
}

/// A part of a whole in percent; empty if there is none.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return String::new();
    }
    let percent = part as f64 * 100.0 / whole as f64;
    if percent < 0.1 {
        "<0.1 %".to_owned()
    } else if percent < 99.95 {
        format!("{percent:.1} %")
    } else {
        "100 %".to_owned()
    }
}

/// The id of an RPC on a page.
pub(super) fn id(id: u64) -> String {
    format!("{id:x}")
}

/// A time of the day and its date, in UTC, to the millisecond.
pub(super) fn time(unix: f64) -> String {
    let seconds = unix.max(0.0) as u64;
    let millis = (unix.max(0.0).fract() * 1e3) as u64;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from the first of March of the year 0, so that a leap day is a year's last.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let of_era_years = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * of_era_years + of_era_years / 4 - of_era_years / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + of_era_years + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day % 3_600 / 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03} UTC")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{bytes, count, duration, percent, rate, seconds, time, visible};

    #[test]
    fn a_duration_has_two_or_three_digits_and_a_unit() {
        for (nanos, expected) in [
            (0, "0"),
            (999, "999 ns"),
            (1_500, "1.5 µs"),
            (42_000, "42 µs"),
            (4_100_000, "4.1 ms"),
            (212_000_000, "212 ms"),
            (8_400_000_000, "8.4 s"),
            (59_000_000_000, "59 s"),
            (60_000_000_000, "1 min"),
            (61_000_000_000, "1 min 1 s"),
            (11_520_000_000_000, "3 h 12 min"),
            (273_600_000_000_000, "3 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), expected);
        }
        assert_eq!(seconds(-1.5), "-1.5 s");
        assert_eq!(seconds(f64::NAN), "0");
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(bytes(18), "18 B");
        assert_eq!(bytes(5_100_000), "5.1 MB");
        assert_eq!(bytes(u64::MAX), "18 EB");
        assert_eq!(count(1_284), "1284");
        assert_eq!(count(41_203), "41\u{202f}203");
        assert_eq!(rate(0.06), "0.1 /s");
        assert_eq!(rate(812.4), "812 /s");
        assert_eq!(percent(0, 7), "");
        assert_eq!(percent(1, 100_000), "<0.1 %");
        assert_eq!(percent(61, 1_000), "6.1 %");
        assert_eq!(percent(7, 7), "100 %");
    }

    #[test]
    fn a_time_is_that_of_the_calendar() {
        for (unix, expected) in [
            (0.0, "1970-01-01 00:00:00.000 UTC"),
            (951_827_696.5, "2000-02-29 12:34:56.500 UTC"),
            (1_795_684_443.25, "2026-11-26 09:14:03.250 UTC"),
        ] {
            assert_eq!(time(unix), expected);
        }
    }

    #[test]
    fn a_text_of_a_peer_is_cut_and_cannot_turn_its_direction() {
        assert_eq!(visible("a\u{202e}b\n", 100), "a\\u{202e}b\\n");
        assert_eq!(visible("abc", 2), "ab…");
        assert_eq!(visible(&"x".repeat(60_000), 256).len(), 256 + "…".len());
    }
}
