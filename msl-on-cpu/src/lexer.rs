//! Tokens of a kernel's text, with their places: all that rewriting and the text rules need.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A name or a keyword.
    Word,
    /// A number with its suffix.
    Number,
    /// One character of punctuation, or `::`.
    Sign,
    /// A string or a character.
    Quoted,
    /// A comment.
    Comment,
    /// A preprocessor line, with its continuations.
    Directive,
}

/// A token of the text `text[start..end]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    pub start: usize,
    /// From 1.
    pub line: u32,
}

impl Token<'_> {
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Whether this is the given name or punctuation.
    pub fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Word | Kind::Sign) && self.text == text
    }
}

/// All tokens of `source`, comments and directives among them. Never fails: what is not closed ends
/// with the text.
pub(crate) fn tokens(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let at = |i: usize| bytes.get(i).copied().unwrap_or(0);
    let mut found = Vec::new();
    let (mut i, mut line, mut line_start) = (0, 1, true);
    while i < bytes.len() {
        let start = i;
        let c = bytes[i];
        let kind = if c == b'\n' {
            line += 1;
            line_start = true;
            i += 1;
            continue;
        } else if c.is_ascii_whitespace() {
            i += 1;
            continue;
        } else if c == b'/' && at(i + 1) == b'/' {
            while i < bytes.len() && bytes[i] != b'\n' {
                i += 1;
            }
            Kind::Comment
        } else if c == b'/' && at(i + 1) == b'*' {
            i += 2;
            while i < bytes.len() && !(bytes[i] == b'*' && at(i + 1) == b'/') {
                i += 1;
            }
            i = (i + 2).min(bytes.len());
            Kind::Comment
        } else if c == b'#' && line_start {
            while i < bytes.len() && !(bytes[i] == b'\n' && bytes[i - 1] != b'\\') {
                i += 1;
            }
            Kind::Directive
        } else if c == b'"' || c == b'\'' {
            i += 1;
            while i < bytes.len() && bytes[i] != c && bytes[i] != b'\n' {
                i += if bytes[i] == b'\\' { 2 } else { 1 };
            }
            i = (i + 1).min(bytes.len());
            Kind::Quoted
        } else if c.is_ascii_digit() || c == b'.' && at(i + 1).is_ascii_digit() {
            while at(i).is_ascii_alphanumeric()
                || at(i) == b'.'
                || at(i) == b'_'
                || matches!(at(i), b'+' | b'-') && exponent(&source[start..i])
            {
                i += 1;
            }
            Kind::Number
        } else if c.is_ascii_alphabetic() || c == b'_' || c >= 0x80 {
            while at(i).is_ascii_alphanumeric() || at(i) == b'_' || at(i) >= 0x80 {
                i += 1;
            }
            Kind::Word
        } else {
            i += if c == b':' && at(i + 1) == b':' { 2 } else { 1 };
            Kind::Sign
        };
        // A quoted escape may have stepped into a character of several bytes.
        while !source.is_char_boundary(i) {
            i += 1;
        }
        let text = &source[start..i];
        found.push(Token { kind, text, start, line });
        line += text.bytes().filter(|&b| b == b'\n').count() as u32;
        line_start = false;
    }
    found
}

/// Whether a number that reads like this may go on with a sign: `1e`, `0x1p`.
fn exponent(number: &str) -> bool {
    let hexadecimal = number.starts_with("0x") || number.starts_with("0X");
    match number.as_bytes().last() {
        Some(b'e' | b'E') => !hexadecimal,
        Some(b'p' | b'P') => hexadecimal,
        _ => false,
    }
}

/// The tokens that the compiler sees, without comments.
pub(crate) fn code<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    tokens.iter().copied().filter(|t| t.kind != Kind::Comment).collect()
}

/// The index of the token that closes the bracket at `open`, which is one of `([{`.
pub(crate) fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        if token.kind == Kind::Sign {
            match token.text {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return Some(i);
                    }
                }
                _ => {}
            }
        }
    }
    None
}

/// The index of the `>` that closes the `<` at `open`, where both are a template's.
pub(crate) fn closing_angle(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match (token.kind, token.text) {
            (Kind::Sign, "<") => depth += 1,
            (Kind::Sign, ">") => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(i);
                }
            }
            (Kind::Sign, ";" | "{" | "}") => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<&str> {
        tokens(source).iter().map(|t| t.text).collect()
    }

    #[test]
    fn numbers_keep_their_suffixes_and_exponents() {
        assert_eq!(
            texts("1.5e-8f+0x1p-3-0xe-2 1.0h .5 7u"),
            ["1.5e-8f", "+", "0x1p-3", "-", "0xe", "-", "2", "1.0h", ".5", "7u"]
        );
    }

    #[test]
    fn comments_directives_and_strings_are_single_tokens() {
        let source = "#define A \\\n 1\n// x\n/* y\n */ metal::a \"q\\\"\" b";
        let found = tokens(source);
        assert_eq!(
            texts(source),
            ["#define A \\\n 1", "// x", "/* y\n */", "metal", "::", "a", "\"q\\\"\"", "b"]
        );
        assert_eq!(found.iter().map(|t| t.line).collect::<Vec<_>>(), [1, 3, 4, 5, 5, 5, 5, 5]);
    }

    #[test]
    fn no_text_is_too_strange() {
        for source in
            ["\"\\", "'", "/*", "#", "\u{e9}\"\\\u{e9}", "1e+", "::", "\\", "[[", "\"\\\n"]
        {
            let all: usize = tokens(source).iter().map(|t| t.text.len()).sum();
            assert!(all <= source.len());
        }
    }

    #[test]
    fn brackets_close() {
        let found = tokens("a(b[c]{(d)}) e");
        assert_eq!(closing(&found, 1), Some(11));
        assert_eq!(closing(&tokens("((a)"), 0), None);
    }
}
