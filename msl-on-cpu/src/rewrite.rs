//! The text of a kernel as C++: what clang does not accept as it stands is replaced in place, so
//! that every line keeps its number.
//!
//! | Metal | C++ |
//! |---|---|
//! | `#include <metal_stdlib>` | nothing: a prelude is included before |
//! | `[[attributes]]` | nothing: they are read here |
//! | `threadgroup float tile[64];` | a reference to the threadgroup's memory |
//! | an array inside such an array (`CubeCL` notes its size beside it) | the same memory with bounds of its own |
//! | `float4(a, b)`, `(float4)a`, `static_cast<float4>(a)` | templates of the prelude |
//! | `1.0h` | `half(1.0f)` |
//! | `typedef float name[1];` (naga's array without size) | an array without size |

use std::fmt::Write as _;

use crate::error::Error;
use crate::lexer::{self, Kind, Token, closing, closing_angle};
use crate::signature::{self, Binding, Kernel, opens_attribute};

/// A rewritten text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rewritten {
    /// The C++.
    pub text: String,
    /// The kernels in it.
    pub kernels: Vec<Kernel>,
    /// The names of its threadgroup variables, by their ids.
    pub variables: Vec<String>,
}

/// What the text is rewritten for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To be executed.
    Cpu,
    /// To be type-checked as C++ for `OpenCL`, which has address spaces.
    OpenCl,
}

/// Rewrites the text of one or more kernels.
///
/// # Errors
///
/// [`Error::Source`] where a kernel's parameter cannot be understood.
pub(crate) fn rewrite(source: &str, target: Target) -> Result<Rewritten, Error> {
    let all = lexer::tokens(source);
    let code = lexer::code(&all);
    let mut kernels = Vec::new();
    let heads = signature::heads(&code);
    for head in &heads {
        kernels.push(signature::kernel(&code, head)?);
    }
    let mut edits = Edits { source, list: Vec::new() };
    let mut variables = Vec::new();
    if target == Target::Cpu {
        for parameter in kernels.iter_mut().flat_map(|k| &mut k.parameters) {
            if let Binding::Threadgroup(number) = &mut parameter.binding {
                *number = variables.len() as u32;
                variables.push(parameter.name.clone());
            }
        }
        threadgroup_variables(&code, &mut variables, &mut edits);
        threadgroup_parts(&all, &mut variables, &mut edits);
        unsized_arrays(&code, &mut edits);
    } else {
        for head in &heads {
            edits.insert(entry_start(&code, head.name), "__kernel ");
        }
        // Names in Metal, keywords in OpenCL.
        for token in code
            .iter()
            .filter(|t| ["local", "global", "private", "generic", "pipe"].iter().any(|w| t.is(w)))
        {
            edits.insert(token.end(), "_name");
        }
    }
    expressions(&code, &mut edits);
    Ok(Rewritten { text: edits.apply(), kernels, variables })
}

/// Replacements of ranges of the source.
struct Edits<'a> {
    source: &'a str,
    list: Vec<(usize, usize, String)>,
}

impl Edits<'_> {
    fn insert(&mut self, at: usize, text: impl Into<String>) {
        self.list.push((at, at, text.into()));
    }

    /// Replaces `source[start..end]`; the lines that it spans stay.
    fn replace(&mut self, start: usize, end: usize, text: impl Into<String>) {
        let mut text = text.into();
        let lines = self.source[start..end].matches('\n').count();
        text.extend(std::iter::repeat_n('\n', lines));
        self.list.push((start, end, text));
    }

    fn apply(mut self) -> String {
        self.list.sort_by_key(|&(start, end, _)| (start, end));
        let mut text = String::with_capacity(self.source.len() * 2);
        let mut done = 0;
        for (start, end, replacement) in self.list {
            // What lies inside a range that is already replaced goes with it.
            if start < done {
                continue;
            }
            text.push_str(&self.source[done..start]);
            text.push_str(&replacement);
            done = end;
        }
        text.push_str(&self.source[done..]);
        text
    }
}

/// Where the function whose name is token `name` begins: after the last `;` or `}` or directive.
fn entry_start(code: &[Token], name: usize) -> usize {
    let mut i = name;
    while i > 0 {
        let before = &code[i - 1];
        if before.kind == Kind::Directive || before.is(";") || before.is("}") {
            break;
        }
        i -= 1;
    }
    code[i].start
}

/// `threadgroup T a[n], b;` in a function.
fn threadgroup_variables(code: &[Token], variables: &mut Vec<String>, edits: &mut Edits) {
    for i in 1..code.len() {
        let starts = ["{", "}", ";"].iter().any(|s| code[i - 1].is(s))
            || code[i - 1].kind == Kind::Directive;
        if !code[i].is("threadgroup") || !starts {
            continue;
        }
        let Some(end) = (i..code.len()).find(|&j| code[j].is(";")) else { continue };
        let inside = &code[i + 1..end];
        if inside.iter().any(|t| ["*", "&", "=", "(", "{"].iter().any(|s| t.is(s))) {
            continue; // a pointer into threadgroup memory
        }
        // The type ends before the first declarator: a name that a `[`, a `,` or the end follows.
        let follows = |j: usize| inside.get(j + 1).is_none_or(|t| t.is("[") || t.is(","));
        let mut depth = 0i32;
        let first = inside.iter().enumerate().position(|(j, t)| {
            depth += i32::from(t.is("<")) - i32::from(t.is(">"));
            depth == 0 && j > 0 && t.kind == Kind::Word && follows(j)
        });
        let Some(first) = first else { continue };
        let ty = one_line(&edits.source[inside[0].start..inside[first].start]);
        let mut text = String::new();
        let mut j = first;
        while let Some(name) = inside.get(j) {
            let stop = (j..inside.len()).find(|&k| inside[k].is(",")).unwrap_or(inside.len());
            let dimensions =
                one_line(&edits.source[name.end()..inside[stop - 1].end().max(name.end())]);
            let _ = write!(
                text,
                "auto& {} = msl::threadgroup_variable<{ty}{dimensions}, {}>(); ",
                name.text,
                variables.len()
            );
            variables.push(name.text.to_owned());
            j = stop + 1;
        }
        edits.replace(code[i].start, code[end].end(), text.trim_end());
    }
}

/// A piece of the text without line breaks.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Arrays that share one threadgroup variable: after the comment `Shared array size: 64, 256 bytes`
/// comes the pointer, made of `&variable[offset]`; for a single value, of `variable[offset]`.
fn threadgroup_parts(all: &[Token], variables: &mut Vec<String>, edits: &mut Edits) {
    let wholes = variables.clone();
    for (i, comment) in all.iter().enumerate() {
        let note =
            comment.text.strip_prefix("// Shared ").filter(|_| comment.kind == Kind::Comment);
        let bytes = note.and_then(|n| n.strip_suffix(" bytes")).and_then(|n| n.rsplit(' ').next());
        let Some(bytes) = bytes.and_then(|b| b.parse::<u64>().ok()) else { continue };
        let statement = &all[i + 1..];
        let end = statement.iter().position(|t| t.is(";")).unwrap_or(0);
        let statement = &statement[..end];
        let name = statement.iter().position(|t| t.is("=")).and_then(|e| e.checked_sub(1));
        let whole = statement.iter().rposition(|t| wholes.iter().any(|w| t.is(w)));
        let (Some(name), Some(whole)) = (name, whole) else { continue };
        if !statement.get(whole + 1).is_some_and(|t| t.is("[")) {
            continue;
        }
        let Some(close) = closing(statement, whole + 1) else { continue };
        let address = whole > 0 && statement[whole - 1].is("&") && !statement[whole - 1].is("&&");
        let start = if address { statement[whole - 1].start } else { statement[whole].start };
        edits.insert(
            start,
            if address { "msl::threadgroup_part(" } else { "*msl::threadgroup_part(&" },
        );
        edits.insert(statement[close].end(), format!(", {}, {bytes})", variables.len()));
        variables.push(statement[name].text.to_owned());
    }
}

/// `typedef T name[1];`
fn unsized_arrays(code: &[Token], edits: &mut Edits) {
    for i in 0..code.len() {
        if !code[i].is("typedef") {
            continue;
        }
        let Some(end) = (i..code.len()).find(|&j| code[j].is(";")) else { continue };
        let one = |j: usize| code[j].is("[") && code[j + 1].text == "1" && code[j + 2].is("]");
        if end < i + 6
            || !one(end - 3)
            || code[i + 1..end - 3].iter().any(|t| t.is("[") || t.is("("))
        {
            continue;
        }
        let name = &code[end - 4];
        let ty = one_line(&edits.source[code[i].end()..name.start]);
        edits.replace(
            code[i].start,
            code[end].end(),
            format!("typedef msl::Unsized<{ty}> {};", name.text),
        );
    }
}

/// What both targets need: includes, attributes, vector constructors, casts, literals.
fn expressions(code: &[Token], edits: &mut Edits) {
    let mut i = 0;
    while i < code.len() {
        let token = &code[i];
        if token.kind == Kind::Directive {
            let include = token.text.trim_start_matches('#').trim_start();
            if include.starts_with("include")
                && (include.contains("metal_") || include.contains("simd/"))
            {
                edits.replace(token.start, token.end(), "");
            }
        } else if opens_attribute(code, i) {
            if let Some(end) = closing(code, i) {
                edits.replace(token.start, code[end].end(), "");
                i = end;
            }
        } else if token.is("static_cast") {
            edits.replace(token.start, token.end(), "msl::convert");
        } else if token.kind == Kind::Number {
            half_literal(token, edits);
        } else if let Some(end) = vector_type(code, i) {
            let before = i.checked_sub(1).map(|b| &code[b]);
            let follows = |j: usize| code.get(j).filter(|t| t.start > token.start);
            if follows(end).is_some_and(|t| t.is("(")) {
                edits.insert(token.start, "msl::make<");
                edits.insert(code[end - 1].end(), ">");
            } else if let (Some(open), Some(close)) = (before.filter(|t| t.is("(")), follows(end))
                && close.is(")")
                && is_cast(code, i - 1, end + 1)
            {
                edits.replace(open.start, open.end(), "msl::Cast<");
                edits.replace(close.start, close.end(), ">() ->* ");
            }
            i = end - 1;
        }
        i += 1;
    }
}

/// Whether the parenthesis at `open` may begin a cast of what is at `operand`.
fn is_cast(code: &[Token], open: usize, operand: usize) -> bool {
    let called = open.checked_sub(1).is_some_and(|b| {
        let before = &code[b];
        before.kind == Kind::Word && !before.is("return")
            || [")", "]", ">"].iter().any(|s| before.is(s))
    });
    let value = code
        .get(operand)
        .is_some_and(|t| matches!(t.kind, Kind::Word | Kind::Number) || t.is("(") || t.is("-"));
    !called && value
}

/// `1.0h`, `1.0bf`: a number of a type that C++ has no suffix for.
fn half_literal(token: &Token, edits: &mut Edits) {
    let text = token.text;
    if text.starts_with("0x") || text.starts_with("0X") {
        return;
    }
    for (suffix, ty) in [("h", "half"), ("H", "half"), ("bf", "bfloat"), ("BF", "bfloat")] {
        if let Some(number) = text.strip_suffix(suffix) {
            edits.replace(token.start, token.end(), format!("{ty}({number})"));
            return;
        }
    }
}

/// If a vector type begins at `i` (`float4`, `metal::float4`, `vec<T, n>`): the index after it.
fn vector_type(code: &[Token], i: usize) -> Option<usize> {
    let qualified = code[i].is("metal") && code.get(i + 1).is_some_and(|t| t.is("::"));
    if !qualified && i > 0 && (code[i - 1].is("::") || code[i - 1].is(".")) {
        return None;
    }
    let name = if qualified { i + 2 } else { i };
    let word = code.get(name).filter(|t| t.kind == Kind::Word)?;
    if word.text == "vec" && code.get(name + 1).is_some_and(|t| t.is("<")) {
        return closing_angle(code, name + 1).map(|close| close + 1);
    }
    is_vector(word.text).then_some(name + 1)
}

/// `float4`, `uint3`, `half2`, and so on.
fn is_vector(word: &str) -> bool {
    let scalars = [
        "bool", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "half",
        "bfloat", "float",
    ];
    let Some(scalar) = word.strip_suffix(['2', '3', '4']) else { return false };
    scalars.contains(&scalar)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(source: &str) -> String {
        rewrite(source, Target::Cpu).map_or_else(|e| e.to_string(), |r| r.text)
    }

    #[test]
    fn vectors_and_literals() {
        assert_eq!(
            cpu("float4 a = float4(1.0h, b.xyz);"),
            "float4 a = msl::make<float4>(half(1.0), b.xyz);"
        );
        assert_eq!(cpu("metal::uint3(0u) == x"), "msl::make<metal::uint3>(0u) == x");
        assert_eq!(cpu("y = (float4)x * 0x1h;"), "y = msl::Cast<float4>() ->* x * 0x1h;");
        assert_eq!(cpu("metal::vec<half, 4>(x)"), "msl::make<metal::vec<half, 4>>(x)");
        assert_eq!(cpu("static_cast<metal::int2>(x)"), "msl::convert<metal::int2>(x)");
        assert_eq!(cpu("sizeof(float4) f(float4 x) {}"), "sizeof(float4) f(float4 x) {}");
    }

    #[test]
    fn lines_keep_their_numbers() {
        let source = "{ threadgroup\nfloat a[\n2],\nb; }\ntypedef float\nt[1];\n[[x(\n1)]] // end";
        assert_eq!(cpu(source).lines().count(), source.lines().count());
        assert!(cpu(source).ends_with("// end"));
    }

    #[test]
    fn threadgroup_memory() {
        assert_eq!(
            cpu("{ threadgroup float a[4][2], b;\nthreadgroup float* p = a[0]; }"),
            "{ auto& a = msl::threadgroup_variable<float[4][2], 0>(); \
             auto& b = msl::threadgroup_variable<float, 1>();\nthreadgroup float* p = a[0]; }"
        );
        assert_eq!(
            cpu("{threadgroup vec<half, 4> t[\n2];}"),
            "{auto& t = msl::threadgroup_variable<vec<half, 4>[ 2], 0>();\n}"
        );
    }

    #[test]
    fn arrays_inside_one_variable_have_their_own_bounds() {
        let source = "{ threadgroup uchar m[96];\n// Shared array size: 16, 64 bytes\n\
            threadgroup float* a = reinterpret_cast<threadgroup float*>(&m[32]);\n// Shared value size: 4 bytes\n\
            threadgroup uint& b = reinterpret_cast<threadgroup uint&>(m[0]);\n}";
        let made = rewrite(source, Target::Cpu).unwrap();
        assert_eq!(made.variables, ["m", "a", "b"]);
        assert!(made.text.contains("(msl::threadgroup_part(&m[32], 1, 64))"), "{}", made.text);
        assert!(made.text.contains("(*msl::threadgroup_part(&m[0], 2, 4))"), "{}", made.text);
    }

    #[test]
    fn arrays_without_size() {
        assert_eq!(
            cpu("typedef metal::atomic_uint t[1];"),
            "typedef msl::Unsized<metal::atomic_uint> t;"
        );
        assert_eq!(
            cpu("typedef float t[2]; typedef float u;"),
            "typedef float t[2]; typedef float u;"
        );
    }

    #[test]
    fn kernels_and_their_bindings() {
        let source = "#include <metal_stdlib>\n[[kernel]] void k(\n const device float_4 * a [[buffer(0)]],\n\
            constant info_st& i [[buffer(2)]], device uint* b [[user(x)]], device float f [[buffer(3)]][12],\n\
            metal::uint3 p [[thread_position_in_grid]], threadgroup T& m) {\n}\nkernel void later();";
        let made = rewrite(source, Target::Cpu).unwrap();
        let [kernel] = &made.kernels[..] else { panic!("{:?}", made.kernels) };
        let bindings: Vec<_> = kernel.parameters.iter().map(|p| p.binding).collect();
        let expected = [
            Binding::Buffer(0),
            Binding::Buffer(2),
            Binding::Buffer(1),
            Binding::Buffer(3),
            Binding::Builtin("thread_position_in_grid"),
            Binding::Threadgroup(0),
        ];
        assert_eq!(bindings, expected);
        assert_eq!((kernel.name.as_str(), kernel.line), ("k", 2));
        assert_eq!(made.text.lines().count(), source.lines().count());
        assert!(!made.text.contains("[[") && !made.text.contains("#include"));
        let opencl = rewrite(source, Target::OpenCl).unwrap().text;
        assert!(opencl.contains("__kernel  void k("), "{opencl}");
    }

    #[test]
    fn unknown_parameters_are_refused_by_name() {
        let error = rewrite("kernel void k(uint x [[color(0)]]) {}", Target::Cpu).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 1: parameter `uint x [ [ color ( 0 ) ] ]` has no known attribute"
        );
    }

    #[test]
    fn no_text_is_too_strange() {
        let pieces =
            ["kernel", "[[", "(", "threadgroup", "float4", "typedef", "[1];", "{", "\u{e9}", "&m["];
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    let source =
                        format!("{{{a} {b}{c} {a};// Shared array size: 1, 4 bytes\n{b}={c}{a}");
                    for target in [Target::Cpu, Target::OpenCl] {
                        let _ = rewrite(&source, target);
                    }
                }
            }
        }
    }
}
