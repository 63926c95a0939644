//! What wgpu's way to Metal demands of a text, and what `CubeCL` is known to write amiss.

use std::collections::HashSet;
use std::fmt;

use crate::lexer::{self, Kind, Token, closing_angle};
use crate::signature::{self, ADDRESS_SPACES, Binding};

/// A rule that a text can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The text can be understood.
    Readable,
    /// Buffers are `[[buffer(0)]]`, `[[buffer(1)]]` and so on, in declaration order.
    BuffersInOrder,
    /// Threadgroup memory is declared in the body: the launch passes none.
    NoThreadgroupArgument,
    /// Nothing is left to be specialised when the pipeline is made.
    NoFunctionConstant,
    /// Fast maths assumes that nothing is infinite or not a number.
    FiniteNumbers,
    /// Functions that Metal does not have: a device fence, names of CUDA.
    KnownFunctions,
    /// Metal's pointers and references name their address space.
    AddressSpaces,
    /// A lane has two elements of a SIMD-group matrix.
    MatrixElements,
}

/// A place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// Line of the text, from 1.
    pub line: u32,
    /// What was expected, and what was found.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// Names that stand for something infinite or not a number.
const NOT_FINITE: [&str; 12] = [
    "INFINITY",
    "HUGE_VALF",
    "HUGE_VALH",
    "NAN",
    "inf",
    "infinity",
    "nan",
    "NaN",
    "quiet_NaN",
    "signaling_NaN",
    "infinityf",
    "infinityh",
];

/// Fences of other languages, of newer versions of this one, and those that `CubeCL` invents.
const FENCES: [&str; 6] = [
    "atomic_thread_fence",
    "threadgroup_thread_fence",
    "simdgroup_thread_fence",
    "device_thread_fence",
    "thread_fence",
    "memory_barrier",
];

/// Every place of the text that breaks a rule, in the order of the lines.
pub fn check_rules(source: &str) -> Vec<Violation> {
    let all = lexer::tokens(source);
    let code = lexer::code(&all);
    let mut found = Vec::new();
    kernels(&code, &mut found);
    attributes(&code, &mut found);
    numbers(&code, &mut found);
    functions(&code, &mut found);
    pointers(&code, &mut found);
    matrix_elements(&code, &mut found);
    found.sort_by_key(|v| v.line);
    found
}

fn add(found: &mut Vec<Violation>, rule: Rule, line: u32, message: String) {
    found.push(Violation { rule, line, message });
}

fn kernels(code: &[Token], found: &mut Vec<Violation>) {
    for head in signature::heads(code) {
        let kernel = match signature::kernel(code, &head) {
            Ok(kernel) => kernel,
            Err(error) => {
                add(found, Rule::Readable, code[head.name].line, error.to_string());
                continue;
            }
        };
        let mut next = 0;
        for p in &kernel.parameters {
            match p.binding {
                Binding::Buffer(n) => {
                    if n != next || !p.explicit {
                        let is = if p.explicit {
                            format!("buffer({n})")
                        } else {
                            "without a number".to_owned()
                        };
                        let message =
                            format!("`{}` must be [[buffer({next})]], it is {is}", p.name);
                        add(found, Rule::BuffersInOrder, p.line, message);
                    }
                    next += 1;
                }
                Binding::Threadgroup(_) => {
                    let message = format!(
                        "`{}` is threadgroup memory as an argument: declare it in the body",
                        p.name
                    );
                    add(found, Rule::NoThreadgroupArgument, p.line, message);
                }
                Binding::Builtin(_) => {}
            }
            if !matches!(p.binding, Binding::Builtin(_)) && p.address_space.is_none() {
                add(
                    found,
                    Rule::AddressSpaces,
                    p.line,
                    format!("`{}` names no address space", p.name),
                );
            }
        }
    }
}

fn attributes(code: &[Token], found: &mut Vec<Violation>) {
    for token in code.iter().filter(|t| t.is("function_constant")) {
        let message = "a function constant: nothing sets it".to_owned();
        add(found, Rule::NoFunctionConstant, token.line, message);
    }
}

fn numbers(code: &[Token], found: &mut Vec<Violation>) {
    for (i, token) in code.iter().enumerate() {
        let is_half = i >= 2 && code[i - 1].is("(") && code[i - 2].is("half")
            || i >= 3 && code[i - 1].is("-") && code[i - 2].is("(") && code[i - 3].is("half");
        let problem = match token.kind {
            Kind::Word => NOT_FINITE.contains(&token.text).then_some("not a finite number"),
            Kind::Number => overflow(token.text, is_half),
            Kind::Quoted | Kind::Comment | Kind::Directive | Kind::Sign => None,
        };
        if let Some(problem) = problem {
            let message =
                format!("`{}` is {problem}: fast maths assumes finite numbers", token.text);
            add(found, Rule::FiniteNumbers, token.line, message);
        }
    }
}

/// Whether a literal is beyond its type, so that it stands for infinity.
fn overflow(text: &str, is_half: bool) -> Option<&'static str> {
    if text.starts_with("0x") || text.starts_with("0X") {
        return None;
    }
    let number = text.trim_end_matches(['f', 'F', 'h', 'H']);
    let half = is_half || number.len() < text.len() && text.ends_with(['h', 'H']);
    if !half && !number.contains(['.', 'e', 'E']) {
        return None; // an integer
    }
    let value: f64 = number.parse().ok()?;
    // Where rounding to the type gives infinity.
    let limit =
        if half { 65520.0 } else { f64::from(f32::MAX) * (1.0 + f64::from(f32::EPSILON) / 4.0) };
    (value >= limit).then_some("beyond its type")
}

fn functions(code: &[Token], found: &mut Vec<Violation>) {
    let called = |i: usize| code.get(i + 1).is_some_and(|t| t.is("("));
    // A definition has a type before its name.
    let defined: HashSet<&str> = (1..code.len())
        .filter(|&i| code[i].kind == Kind::Word && called(i) && code[i - 1].kind == Kind::Word)
        .filter(|&i| !code[i - 1].is("return") && !code[i - 1].is("else"))
        .map(|i| code[i].text)
        .collect();
    for (i, token) in code.iter().enumerate() {
        let foreign = FENCES.contains(&token.text)
            || token.text.starts_with("__") && !token.text.starts_with("__builtin");
        if token.kind == Kind::Word && called(i) && foreign && !defined.contains(token.text) {
            let message = format!("`{}` is no function of Metal's", token.text);
            add(found, Rule::KnownFunctions, token.line, message);
        }
    }
}

/// `float* p = ...;` and `reinterpret_cast<float*>(...)` without an address space.
fn pointers(code: &[Token], found: &mut Vec<Violation>) {
    let names_space =
        |tokens: &[Token]| tokens.iter().any(|t| ADDRESS_SPACES.iter().any(|s| t.is(s)));
    for (i, token) in code.iter().enumerate() {
        let bare = if token.is("reinterpret_cast") && code.get(i + 1).is_some_and(|t| t.is("<")) {
            closing_angle(code, i + 1)
                .map(|close| &code[i + 2..close])
                .filter(|ty| ty.last().is_some_and(|t| t.is("*") || t.is("&")) && !names_space(ty))
        } else if i == 0 || ["{", "}", ";"].iter().any(|s| code[i - 1].is(s)) {
            let words = code[i..].iter().take_while(|t| t.kind == Kind::Word || t.is("::")).count();
            let star = code.get(i + words).filter(|t| t.is("*") || t.is("&"));
            let name = code.get(i + words + 1).filter(|t| t.kind == Kind::Word);
            let then = code.get(i + words + 2).filter(|t| t.is("=") || t.is(";"));
            let value = code[i].is("return");
            let declares =
                words > 0 && !value && star.is_some() && name.is_some() && then.is_some();
            declares.then(|| &code[i..i + words + 2]).filter(|d| !names_space(d))
        } else {
            None
        };
        if let Some(tokens) = bare {
            let spelt = tokens.iter().map(|t| t.text).collect::<Vec<_>>().join(" ");
            add(
                found,
                Rule::AddressSpaces,
                token.line,
                format!("`{spelt}` names no address space"),
            );
        }
    }
}

/// `for (int e = 0; e < 8; e++) ... thread_elements()[e]`: `CubeCL`'s cast between matrices.
fn matrix_elements(code: &[Token], found: &mut Vec<Violation>) {
    let mut last_loop: Option<(&str, u32)> = None;
    for (i, token) in code.iter().enumerate() {
        if token.is("for") {
            last_loop = code[i..].windows(3).take(16).find_map(|w| {
                let bound = w[2].text.trim_end_matches(['u', 'U']).parse().ok()?;
                (w[1].is("<") && w[0].kind == Kind::Word).then_some((w[0].text, bound))
            });
        }
        if !token.is("thread_elements") {
            continue;
        }
        let index = code.get(i + 4).map_or("", |t| t.text);
        let bound = match last_loop {
            Some((name, bound)) if name == index => bound,
            _ => index.parse::<u32>().map_or(0, |n| n.saturating_add(1)),
        };
        if bound > 2 {
            let message = format!("element {} of a SIMD-group matrix: a lane has two", bound - 1);
            add(found, Rule::MatrixElements, token.line, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(source: &str) -> Vec<(Rule, u32)> {
        check_rules(source).iter().map(|v| (v.rule, v.line)).collect()
    }

    #[test]
    fn buffers_are_numbered_in_declaration_order() {
        let kernel = |attributes: [&str; 3]| {
            let [a, b, c] = attributes;
            format!(
                "kernel void k(device float* a {a},\ndevice float* b {b},\nconstant info& c {c}) {{}}"
            )
        };
        assert_eq!(broken(&kernel(["[[buffer(0)]]", "[[buffer(1)]]", "[[buffer(2)]]"])), []);
        let order = Rule::BuffersInOrder;
        assert_eq!(
            broken(&kernel(["[[buffer(1)]]", "[[buffer(0)]]", "[[buffer(2)]]"])),
            [(order, 1), (order, 2)]
        );
        assert_eq!(
            broken(&kernel(["[[buffer(0)]]", "[[buffer(1)]]", "[[buffer(3)]]"])),
            [(order, 3)]
        );
        assert_eq!(broken(&kernel(["[[buffer(0)]]", "", "[[buffer(2)]]"])), [(order, 2)]);
    }

    #[test]
    fn nothing_but_buffers_comes_from_outside() {
        let source = "constant bool c [[function_constant(0)]];\n\
            kernel void k(threadgroup float* t [[threadgroup(0)]], device float* a [[buffer(0)]]) {}";
        assert_eq!(
            broken(source),
            [(Rule::NoFunctionConstant, 1), (Rule::NoThreadgroupArgument, 2)]
        );
    }

    #[test]
    fn numbers_are_finite() {
        for text in [
            "-INFINITY",
            "float(inf)",
            "1e39",
            "half(-1e30)",
            "half(65520.0)",
            "70000.0h",
            "metal::numeric_limits<float>::infinity()",
            "NAN",
        ] {
            assert_eq!(broken(&format!("a =\n {text};")), [(Rule::FiniteNumbers, 2)], "{text}");
        }
        for text in [
            "-1e30",
            "half(65504.0)",
            "float(1e38)",
            "3.4028235e38",
            "0xffffffffu",
            "0x7f800000u",
            "99999999999u",
            "half(x)",
            "1e-50",
        ] {
            assert_eq!(broken(&format!("a = {text};")), [], "{text}");
        }
    }

    #[test]
    fn functions_exist_in_metal() {
        assert_eq!(
            broken("threadgroup_thread_fence(mem_flags::mem_device);"),
            [(Rule::KnownFunctions, 1)]
        );
        assert_eq!(
            broken("__threadfence();\n__syncthreads();"),
            [(Rule::KnownFunctions, 1), (Rule::KnownFunctions, 2)]
        );
        assert_eq!(broken("uint __ffs(uint x) { return 0; }\na = __ffs(b);"), []);
    }

    #[test]
    fn pointers_name_their_address_space() {
        assert_eq!(broken("{ atomic_uint* l = m; }"), [(Rule::AddressSpaces, 1)]);
        assert_eq!(broken("x = reinterpret_cast<const float_4*>(y);"), [(Rule::AddressSpaces, 1)]);
        assert_eq!(broken("kernel void k(float* a [[buffer(0)]]) {}"), [(Rule::AddressSpaces, 1)]);
        let right = "{ return a * b; device atomic_uint* l = m; a = b * c; reinterpret_cast<thread float const&>(d); e = f & g; }";
        assert_eq!(broken(right), []);
    }

    #[test]
    fn a_lane_has_two_elements_of_a_matrix() {
        let cast =
            "for(int e=0; e<8; e++) {\n b.thread_elements()[e] = half(a.thread_elements()[e]); }";
        assert_eq!(broken(cast), [(Rule::MatrixElements, 2); 2]);
        assert_eq!(broken("for(int e=0; e<2; e++) { b.thread_elements()[e] = 0; }"), []);
        assert_eq!(broken("b.thread_elements()[2] = 0;"), [(Rule::MatrixElements, 1)]);
    }
}
