//! Escapes text from other users: names, labels, host names.

use std::fmt::Write;

/// Escapes all characters that could move a cursor, break a line, or reverse the reading direction:
/// control characters, separators, and invisible and direction-changing characters.
pub(crate) fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_plain(character) {
            shown.push(character);
        } else {
            let _ = write!(shown, "{}", character.escape_default());
        }
    }
    shown
}

/// Quotes and escapes the text, including its quotes and backslashes.
pub(crate) fn quote(text: &str) -> String {
    let mut shown = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                shown.push('\\');
                shown.push(character);
            }
            _ if is_plain(character) => shown.push(character),
            _ => {
                let _ = write!(shown, "{}", character.escape_default());
            }
        }
    }
    shown.push('"');
    shown
}

fn is_plain(character: char) -> bool {
    !character.is_control()
        && !matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hostile_reaches_the_terminal() {
        let hostile = "a\x1b[2Jb\r\nc\u{202e}d\u{9b}e\u{200b}";
        let shown = escape(hostile);
        assert!(shown.chars().all(is_plain), "{shown:?}");
        assert_eq!(shown, "a\\u{1b}[2Jb\\r\\nc\\u{202e}d\\u{9b}e\\u{200b}");
        assert_eq!(escape("größe 🔒 \"x\""), "größe 🔒 \"x\"");
        assert_eq!(quote("a\"b\\"), "\"a\\\"b\\\\\"");
    }
}
