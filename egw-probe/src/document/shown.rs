//! How foreign names are shown: characters that would act on a terminal or turn a line round stand as `\u202e`, in text and in JSON
//! alike, where that is the same string.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Acts, and is no ASCII: C1 controls, bidirectional marks, and what XML has no place for. JSON escapes the others by itself.
fn acts(c: char) -> bool {
    matches!(
        c,
        '\u{80}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}'
    )
}

/// Text that may have lines and colours of its own.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    escape(text, acts)
}

/// One name: nothing in it acts, line ends included.
#[cfg(feature = "report")]
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    escape(text, |c| acts(c) || c.is_control())
}

fn escape(text: &str, harmful: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) {
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_escaped_and_all_else_stays() {
        assert_eq!(escaped("pod-ä \u{202e}gnp\u{9b}31m\n\x1b[1m"), "pod-ä \\u202egnp\\u009b31m\n\x1b[1m");
        #[cfg(feature = "report")]
        assert_eq!(plain("a\nb\x1b\u{7f}\u{feff}"), "a\\u000ab\\u001b\\u007f\\ufeff");
        assert!(matches!(escaped("λ"), Cow::Borrowed("λ")));
    }

    #[test]
    fn json_says_the_same_with_it() {
        let name = "\u{85}\u{200f}\u{2069}x";
        let json = serde_json::to_string(name).unwrap();
        let shown = escaped(&json);
        assert_eq!(shown, r#""\u0085\u200f\u2069x""#);
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), name);
    }
}
