//! What is changed in the texts that CubeCL writes.

/// The function that [`with_products_of_bytes`] puts in, by an instruction of NVIDIA's.
pub(super) const PRODUCTS_IN_CUDA: &str = "
__device__ inline int32 products_of_bytes(int32 a, int32 b) {
    return __dp4a(a, b, 0);
}
";

/// The same for Metal, which has no instruction for it.
pub(super) const PRODUCTS_IN_MSL: &str = "
int products_of_bytes(int a, int b) {
    return ((a << 24) >> 24) * ((b << 24) >> 24) + ((a << 16) >> 24) * ((b << 16) >> 24) +
           ((a << 8) >> 24) * ((b << 8) >> 24) + (a >> 24) * (b >> 24);
}
";

/// A text without the information block that CubeCL declares for every kernel: ours never read it,
/// and nothing is bound to it.
///
/// # Errors
/// That it is read after all.
pub fn without_info(text: &str, name: &str) -> Result<String, String> {
    let mut kept = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("struct info_st") {
            lines.by_ref().take_while(|line| !line.starts_with('}')).for_each(drop);
        } else if line.contains("info: info_st;") {
            // WGSL: its group and binding are on the two lines before.
            kept.truncate(kept.len().saturating_sub(2));
        } else if line.starts_with("const uint32* dynamic_meta") {
            // CUDA: three lines.
            lines.by_ref().take_while(|line| !line.ends_with(");")).for_each(drop);
        } else if let Some((before, _)) = line.split_once(", const info_st* __restrict__ info_ptr")
        {
            kept.push(before);
        } else if !line.contains("info_st& info") {
            kept.push(line);
        }
    }
    let kept = kept.join("\n") + "\n";
    let is_used = kept.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "info");
    if is_used { Err(format!("{name} reads the information block")) } else { Ok(kept) }
}

/// A text for Metal whose barriers of planes order what is in shared memory, as they do in CUDA. (CubeCL
/// adds one of its own behind each matrix that is stored: where a kernel has one there, too, it is enough.)
pub(super) fn with_ordered_planes(text: &str) -> String {
    const BARRIER: &str = "simdgroup_barrier(mem_flags::mem_threadgroup);\n";
    text.replace("simdgroup_barrier(mem_flags::mem_none);\n", BARRIER)
        .replace(&BARRIER.repeat(2), BARRIER)
}

/// A text in which the upper halves of products of 32 bits are sums of products of bytes. CubeCL has no
/// operation for these, and no kernel has a use for the others.
pub(super) fn with_products_of_bytes(text: &str, function: &str) -> String {
    const NAME: &str = "__mulhi(";
    if !text.contains(NAME) {
        return text.into();
    }
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.contains(NAME) && line.ends_with('{') {
            // Metal: CubeCL defines it itself.
            lines.by_ref().take_while(|line| !line.starts_with('}')).for_each(drop);
            continue;
        }
        if line.contains("__global__") || line.starts_with("[[kernel]]") {
            kept.push_str(function);
            kept.push('\n');
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept.replace(NAME, "products_of_bytes(")
}

/// A text in WGSL whose words are taken apart into two f16 by the function that does so. CubeCL
/// reinterprets them, which naga refuses.
pub fn with_halves_of_words(text: &str) -> String {
    let mut parts = text.split("bitcast<vec2<f16>>(");
    let mut made = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (word, behind) = part.split_once(')').unwrap_or((part, ""));
        made.push_str("vec2<f16>(unpack2x16float(");
        made.push_str(word);
        made.push_str("))");
        made.push_str(behind);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_halves() {
        let text = "let a = bitcast<vec2<f16>>(b);\nlet c = bitcast<vec2<f16>>(d)[0];\n";
        let made =
            "let a = vec2<f16>(unpack2x16float(b));\nlet c = vec2<f16>(unpack2x16float(d))[0];\n";
        assert_eq!(with_halves_of_words(text), made);
        assert_eq!(with_halves_of_words("let a = bitcast<u32>(b);"), "let a = bitcast<u32>(b);");
    }
}
