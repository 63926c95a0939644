//! The cases, and the comparison.

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _};

use burn::tensor::{DType, Tensor, TensorData};
use half::f16;
use metal_candle::{
    backend::{
        AttentionOptions, Backend, FusedLinear, HostPacked, KvCache, KvCacheShape, RopeOrder,
        Weight,
    },
    formats::RandomWeights,
    quant::{self, Encoding},
};

use super::{
    plain::{self, AttentionShape},
    support::EveryBackend,
};

/// Relative to the largest expected value (or 1): f32 accumulation over a few hundred terms stays
/// well below it.
const F32_TOLERANCE: f64 = 2e-5;
/// burn's products of f32 on CUDA have NVIDIA's matrix units round their inputs to 11 bits (TF32), and
/// there is no way to tell them not to. What runs on own kernels stays within [`F32_TOLERANCE`].
const TF32_TOLERANCE: f64 = 1e-3;
/// GPUs that multiply bytes take one row of `x` as integers of 16 bits, each off by 1.5e-5 of the largest of 32 at
/// most; a product of few columns may be as far off. (1e-4 is what must hold; 4.0e-5 was found.)
const BYTES_TOLERANCE: f64 = 5e-5;
/// What is multiplied so, where a device can.
const BY_BYTES: &str = "packed_linear, one row";
/// What they are used by.
const BY_BURN: [&str; 3] = ["attention", "attention_backward", "packed_linear_backward"];
/// Inputs are exact in f16 and accumulation is f32 (candle's and the GPU's f16 products round the
/// result once more), so what is left is a few roundings to 11 bits.
const F16_TOLERANCE: f64 = 3e-3;
/// Activations in 8 bits: each value is off by up to 1/254 of its block's greatest, and a sum of
/// `n` such errors grows with √n, as the sums themselves do. The kernels' own tests compare with a
/// model of the rounding, to 1e-4 or better.
const ROUNDED_TOLERANCE: f64 = 3e-2;
/// Up to here, f32 rows times an f16 matrix are f32 sums everywhere.
const MANY_ROWS: usize = 64;

/// Cases and the largest error of each operation.
#[derive(Default)]
pub struct Oracle {
    cases: BTreeMap<(&'static str, &'static str), (usize, f64)>,
    failures: Vec<String>,
    seed: u64,
}

impl EveryBackend for Oracle {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        let rounds = label.ends_with("cpu");
        let tf32 = label == "cuda";
        let fuses = match label {
            "cpu" => Fuses::Adapters,
            _ if tf32 || label.starts_with("wgpu") => Fuses::All,
            _ => Fuses::Nothing,
        };
        for dtype in [DType::F32, DType::F16] {
            if !B::supports_dtype(device, dtype) {
                assert_eq!(dtype, DType::F16, "f32 is not optional");
                self.cases.insert(("(f16 is not supported here)", "f16"), (0, 0.0));
                continue;
            }
            Run::<B> { oracle: self, device, dtype, rounds, tf32, fuses }.all();
        }
    }
}

impl Oracle {
    /// Values between -1 and 1, exact in f16, from a fixed sequence.
    fn values(&mut self, len: usize) -> Vec<f64> {
        (0..len)
            .map(|_| {
                self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let unit = (self.seed >> 40) as f64 / f64::from(1 << 23) - 1.0;
                f16::from_f64(unit).to_f64()
            })
            .collect()
    }

    fn compare(
        &mut self,
        op: &'static str,
        dtype: DType,
        case: &str,
        got: &[f32],
        want: &[f64],
        tolerance: f64,
    ) {
        assert_eq!(got.len(), want.len(), "{op} {case}");
        let scale = want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        let mut worst = 0.0f64;
        for (got, want) in got.iter().zip(want) {
            let error = (f64::from(*got) - want).abs() / scale;
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
            if error.is_nan() {
                break;
            }
        }
        let entry = self.cases.entry((op, dtype.name())).or_default();
        entry.0 += 1;
        entry.1 = entry.1.max(worst);
        if worst > tolerance {
            self.failures.push(format!("{op} {} {case}: {worst:.2e}", dtype.name()));
        }
    }

    /// Prints what was done and fails if anything was off.
    pub fn report(&self, backend: &str, adapter: &str) {
        let mut text = format!("oracle: {backend} on {adapter}\n");
        let mut json = Vec::new();
        for ((op, dtype), (cases, worst)) in &self.cases {
            let _ =
                writeln!(text, "  {op:<24} {dtype:<4} {cases:>4} cases, largest error {worst:.1e}");
            json.push(serde_json::json!({
                "op": op, "dtype": dtype, "cases": cases, "max_relative_error": worst,
            }));
        }
        // Past the test harness, which swallows what passing tests print.
        let _ = std::io::stderr().write_all(text.as_bytes());
        if let Ok(path) = std::env::var("ORACLE_REPORT") {
            let line = serde_json::json!({
                "backend": backend, "adapter": adapter, "ops": json, "failures": self.failures,
            });
            let mut file =
                std::fs::OpenOptions::new().create(true).append(true).open(path).expect("report");
            writeln!(file, "{line}").expect("report");
        }
        assert!(self.failures.is_empty(), "{}\n{}", self.failures.len(), self.failures.join("\n"));
    }
}

struct Run<'a, B: Backend> {
    oracle: &'a mut Oracle,
    device: &'a B::Device,
    dtype: DType,
    /// Whether blocks are multiplied with activations rounded to 8 bits.
    rounds: bool,
    /// Whether burn's products of f32 round to TF32.
    tf32: bool,
    fuses: Fuses,
}

/// What products have around them in one operation.
#[derive(Clone, Copy, PartialEq)]
enum Fuses {
    Nothing,
    /// What adapters add to one row.
    Adapters,
    All,
}

impl<B: Backend> Run<'_, B> {
    fn all(&mut self) {
        self.linear();
        self.fused_linear();
        self.columns();
        self.embedding();
        self.rms_norm();
        self.swiglu();
        self.rope();
        self.attention();
        self.attention_backward();
        self.attention_cached();
        self.packed();
    }

    fn tensor<const D: usize>(&self, values: &[f64], shape: [usize; D]) -> Tensor<B, D> {
        self.tensor_as(values, shape, self.dtype)
    }

    fn tensor_as<const D: usize>(
        &self,
        values: &[f64],
        shape: [usize; D],
        dtype: DType,
    ) -> Tensor<B, D> {
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        let data = TensorData::new(values, shape).convert_dtype(dtype);
        Tensor::from_data(data, (self.device, dtype))
    }

    fn read<const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
        tensor.into_data().convert::<f32>().into_vec().expect("f32")
    }

    fn check<const D: usize>(
        &mut self,
        op: &'static str,
        case: &str,
        got: Tensor<B, D>,
        want: &[f64],
    ) {
        assert_eq!(got.dtype(), self.dtype, "{op} changes the type");
        let tolerance = if self.dtype == DType::F16 {
            F16_TOLERANCE
        } else if self.tf32 && BY_BURN.contains(&op) {
            TF32_TOLERANCE
        } else if op == BY_BYTES {
            BYTES_TOLERANCE
        } else {
            F32_TOLERANCE
        };
        self.oracle.compare(op, self.dtype, case, &Self::read(got), want, tolerance);
    }

    /// A product of `x` in 8 bits with a weight.
    fn check_rounded(
        &mut self,
        op: &'static str,
        case: &str,
        got: Tensor<B, 2>,
        want: &[f64],
        [x, weight]: [&[f64]; 2],
    ) {
        let [rows, _] = got.dims();
        // What is rounded are the terms: a sum in which they cancel is no more exact.
        let largest = want.iter().fold(1.0f64, |most, value| most.max(value.abs()));
        let size = plain::size_of_products(x, weight, x.len() / rows);
        let tolerance = ROUNDED_TOLERANCE * (size / largest).max(1.0);
        self.oracle.compare(op, self.dtype, case, &Self::read(got), want, tolerance);
    }

    fn linear(&mut self) {
        for (inputs, outputs) in [(1, 1), (3, 5), (17, 33), (64, 64), (100, 37), (576, 192)] {
            for rows in [1, 2, 7, 8, 9, 33, 70] {
                for bias in [false, true] {
                    let x = self.oracle.values(rows * inputs);
                    let w = self.oracle.values(outputs * inputs);
                    let b = self.oracle.values(outputs);
                    let want = plain::linear(&x, &w, bias.then_some(&b), inputs);
                    let got = B::dense_linear(
                        self.tensor(&x, [rows, inputs]),
                        self.tensor(&w, [outputs, inputs]),
                        bias.then(|| self.tensor_as(&b, [outputs], DType::F32)),
                    );
                    self.check(
                        "dense_linear",
                        &format!("{rows}x{inputs}x{outputs} {bias}"),
                        got,
                        &want,
                    );
                    if self.dtype == DType::F32 && B::supports_dtype(self.device, DType::F16) {
                        let got = B::dense_linear(
                            self.tensor(&x, [rows, inputs]),
                            self.tensor_as(&w, [outputs, inputs], DType::F16),
                            bias.then(|| self.tensor_as(&b, [outputs], DType::F32)),
                        );
                        let case = format!("{rows}x{inputs}x{outputs} {bias}");
                        // Many rows meet an f16 matrix in f16 on wgpu devices, where that is what
                        // matrix units take: inputs and results are rounded to it.
                        let (op, tolerance) = if rows > MANY_ROWS {
                            ("dense_linear, f16 weight, many rows", F16_TOLERANCE)
                        } else {
                            ("dense_linear, f16 weight", F32_TOLERANCE)
                        };
                        let got = Self::read(got);
                        self.oracle.compare(op, self.dtype, &case, &got, &want, tolerance);
                    }
                }
            }
        }
    }

    /// Products with what is around them, where a backend has such operations.
    fn fused_linear(&mut self) {
        const EPSILON: f64 = 1e-5;
        if self.dtype != DType::F32 {
            return;
        }
        let f16 = B::supports_dtype(self.device, DType::F16).then_some(Encoding::F16);
        let adapters = if f16.is_some() { DType::F16 } else { DType::F32 };
        let encodings = [Some(Encoding::F32), f16, Some(Encoding::Q8_0), Some(Encoding::Q4_K)];
        for (inputs, outputs) in [(64usize, 6), (256, 34), (2304, 10)] {
            let fits = |encoding: &Encoding| inputs.is_multiple_of(encoding.block_len());
            for encoding in encodings.into_iter().flatten().filter(fits) {
                let dense = match encoding {
                    Encoding::F32 => Some(DType::F32),
                    Encoding::F16 => Some(DType::F16),
                    _ => None,
                };
                let (packed, w) = if dense.is_some() {
                    (None, self.oracle.values(outputs * inputs))
                } else {
                    let (host, values) = self.blocks_of(encoding, outputs, inputs);
                    (Some(B::pack(host, self.device)), values)
                };
                for rows in [1, 3, 8] {
                    let x = self.oracle.values(rows * inputs);
                    let (gain, bias) = (self.oracle.values(inputs), self.oracle.values(outputs));
                    let residual = self.oracle.values(rows * outputs);
                    // The last rank is too large for a launch.
                    for (norm, add, gated, rank) in [
                        (false, "residual", false, 0),
                        (true, "", false, 0),
                        (true, "bias", false, 0),
                        (true, "", true, 0),
                        (true, "bias", true, 0),
                        (false, "residual", false, 16),
                        (false, "bias", false, 48),
                        (true, "", true, 3),
                        (true, "bias", true, 260),
                    ] {
                        let (has_bias, has_residual) = (add == "bias", add == "residual");
                        let (a, b) =
                            (self.oracle.values(rank * inputs), self.oracle.values(outputs * rank));
                        let of_adapter = if norm { DType::F32 } else { adapters };
                        let factors = [
                            self.tensor_as(&a, [rank, inputs], of_adapter),
                            self.tensor_as(&b, [outputs, rank], of_adapter),
                        ];
                        let gain_in = self.tensor(&gain, [inputs]);
                        let bias_in = self.tensor(&bias, [outputs]);
                        let residual_in = self.tensor(&residual, [rows, outputs]);
                        let operation = FusedLinear::<B> {
                            weight: match (&packed, dense) {
                                (Some(packed), _) => Weight::Packed(packed),
                                (None, dtype) => Weight::Dense(self.tensor_as(
                                    &w,
                                    [outputs, inputs],
                                    dtype.unwrap_or(DType::F32),
                                )),
                            },
                            norm: norm.then_some((&gain_in, EPSILON)),
                            low_rank: (rank > 0).then_some([&factors[0], &factors[1]]),
                            bias: has_bias.then_some(&bias_in),
                            residual: has_residual.then_some(&residual_in),
                            gated,
                        };
                        let got = B::fused_linear(&self.tensor(&x, [rows, inputs]), &operation);
                        let fuses = match self.fuses {
                            Fuses::Nothing => false,
                            Fuses::Adapters => rows == 1 && !norm && rank > 0,
                            // For one row; without norm and adapter, for a few.
                            Fuses::All => rows == 1 || !(norm || rank > 0),
                        };
                        assert_eq!(got.is_some(), fuses);
                        let Some(got) = got else { continue };
                        let x = if norm { plain::rms_norm(&x, &gain, EPSILON) } else { x.clone() };
                        let mut want = plain::linear(&x, &w, has_bias.then_some(&bias), inputs);
                        if rank > 0 {
                            let low = plain::linear(&x, &a, None, inputs);
                            let low = plain::linear(&low, &b, None, rank);
                            want.iter_mut().zip(low).for_each(|(sum, add)| *sum += add);
                        }
                        if has_residual {
                            want.iter_mut().zip(&residual).for_each(|(sum, add)| *sum += add);
                        }
                        if gated {
                            let halves = want.chunks(outputs).map(|row| row.split_at(outputs / 2));
                            want = halves.flat_map(|(gate, up)| plain::swiglu(gate, up)).collect();
                        }
                        let name = encoding.name();
                        let case =
                            format!("{rows}x{inputs}x{outputs} {name} {norm} {add} {gated} {rank}");
                        if self.rounds && packed.is_some() {
                            self.check_rounded(
                                "fused_linear, 8-bit x",
                                &case,
                                got,
                                &want,
                                [&x, &w],
                            );
                        } else {
                            self.check("fused_linear", &case, got, &want);
                        }
                    }
                }
            }
        }
    }

    /// Random blocks of a weight, and their values.
    fn blocks_of(
        &mut self,
        encoding: Encoding,
        outputs: usize,
        inputs: usize,
    ) -> (HostPacked, Vec<f64>) {
        let bytes = if encoding.block_len() > 32 || encoding == Encoding::MXFP4 {
            RandomWeights::new(1, encoding).tensor("w", &[outputs, inputs]).bytes.to_vec()
        } else {
            self.blocks(encoding, outputs * inputs)
        };
        let mut weight = vec![0.0f32; outputs * inputs];
        quant::dequantize(encoding, &bytes, &mut weight).expect("valid blocks");
        let host = HostPacked::new(bytes, [outputs, inputs], encoding).expect("shape");
        (host, weight.into_iter().map(f64::from).collect())
    }

    fn embedding(&mut self) {
        for (vocabulary, dim, ids) in
            [(1, 1, vec![0u32]), (7, 33, vec![6, 0, 6, 3]), (512, 64, vec![511, 0, 17])]
        {
            let w = self.oracle.values(vocabulary * dim);
            let want: Vec<f64> =
                ids.iter().flat_map(|&id| w[id as usize * dim..][..dim].to_vec()).collect();
            let got = B::dense_rows(self.tensor(&w, [vocabulary, dim]), &ids, self.dtype);
            self.check("dense_rows", &format!("{vocabulary}x{dim}"), got, &want);
        }
    }

    fn rms_norm(&mut self) {
        for dim in [1, 7, 64, 100, 576] {
            for rows in [1, 3, 9] {
                let (x, w) = (self.oracle.values(rows * dim), self.oracle.values(dim));
                let got = B::rms_norm(
                    self.tensor(&x, [rows, dim]),
                    self.tensor_as(&w, [dim], DType::F32),
                    1e-5,
                );
                let want = plain::rms_norm(&x, &w, 1e-5);
                self.check("rms_norm", &format!("{rows}x{dim}"), got, &want);

                let residual = self.oracle.values(rows * dim);
                let [sum, got] = B::add_rms_norm(
                    self.tensor(&x, [rows, dim]),
                    self.tensor(&residual, [rows, dim]),
                    self.tensor_as(&w, [dim], DType::F32),
                    1e-5,
                );
                let want: Vec<f64> = x.iter().zip(&residual).map(|(x, r)| x + r).collect();
                self.check("add_rms_norm", &format!("sum {rows}x{dim}"), sum, &want);
                let want = plain::rms_norm(&want, &w, 1e-5);
                self.check("add_rms_norm", &format!("{rows}x{dim}"), got, &want);
            }
        }
    }

    /// Of one row, parts lie where a buffer may begin, and not.
    fn columns(&mut self) {
        for (rows, widths) in
            [(1, &[128, 64, 64][..]), (1, &[3, 5]), (1, &[64, 7, 128]), (3, &[64, 128]), (1, &[9])]
        {
            let width: usize = widths.iter().sum();
            let x = self.oracle.values(rows * width);
            let parts = B::columns(self.tensor(&x, [rows, width]), widths);
            assert_eq!(parts.len(), widths.len());
            let mut first = 0;
            for (part, &n) in parts.into_iter().zip(widths) {
                let of_row = |row: &[f64]| row[first..first + n].to_vec();
                let want: Vec<f64> = x.chunks(width).flat_map(of_row).collect();
                first += n;
                self.check("columns", &format!("{rows} of {widths:?}"), part, &want);
            }
        }
    }

    fn swiglu(&mut self) {
        for (rows, dim) in [(1, 1), (3, 7), (5, 160), (33, 100)] {
            let scale = |v: Vec<f64>| v.into_iter().map(|v| v * 8.0).collect::<Vec<_>>();
            let gate = scale(self.oracle.values(rows * dim));
            let up = self.oracle.values(rows * dim);
            let got = B::swiglu(self.tensor(&gate, [rows, dim]), self.tensor(&up, [rows, dim]));
            self.check("swiglu", &format!("{rows}x{dim}"), got, &plain::swiglu(&gate, &up));
        }
    }

    fn rope(&mut self) {
        for (batch, heads, rows, dim) in [
            (1, 1, 1, 2),
            (1, 9, 1, 64),
            (2, 3, 5, 16),
            (3, 2, 7, 24),
            (1, 2, 33, 72),
            (2, 1, 3, 128),
        ] {
            for order in [RopeOrder::HalfSplit, RopeOrder::AdjacentPairs] {
                for own_angles in [false, true] {
                    let tables = if own_angles { batch } else { 1 };
                    let x = self.oracle.values(batch * heads * rows * dim);
                    let angles: Vec<f64> = self
                        .oracle
                        .values(tables * rows * dim / 2)
                        .into_iter()
                        .map(|v| v * 40.0)
                        .collect();
                    let table = |f: fn(f64) -> f64| {
                        let values: Vec<f64> = angles.iter().map(|&a| f(a)).collect();
                        self.tensor_as(&values, [tables, rows, dim / 2], DType::F32)
                    };
                    let shape = [batch, heads, rows, dim];
                    let got =
                        B::rope(self.tensor(&x, shape), table(f64::cos), table(f64::sin), order);
                    let want = plain::rope(&x, shape, &angles, order);
                    self.check("rope", &format!("{shape:?} {order:?}"), got, &want);
                }
            }
        }
    }

    fn attention_cases() -> Vec<(AttentionShape, AttentionOptions)> {
        let shapes = [
            (1, 1, 1, 1, 1, 16),
            (1, 4, 2, 5, 5, 16),
            (2, 3, 1, 7, 9, 24),
            (1, 9, 3, 1, 33, 64),
            (2, 4, 4, 33, 40, 72),
            (1, 2, 1, 8, 100, 128),
            (1, 2, 2, 130, 130, 32),
            (2, 2, 1, 5, 3, 16),
        ];
        let mut cases = Vec::new();
        for (batch, heads, kv_heads, rows, keys, dim) in shapes {
            let shape = AttentionShape { batch, heads, kv_heads, rows, keys, dim };
            let padding: Vec<usize> = (0..batch).map(|b| b * 2 + 1).collect();
            for options in [
                AttentionOptions::default(),
                AttentionOptions::causal(),
                AttentionOptions { window: Some(4), ..AttentionOptions::causal() },
                AttentionOptions {
                    softcap: Some(2.0),
                    scale: Some(0.7),
                    ..AttentionOptions::causal()
                },
                AttentionOptions {
                    left_padding: Some(padding.clone()),
                    ..AttentionOptions::causal()
                },
                // Everything is padding: no row sees anything.
                AttentionOptions {
                    left_padding: Some(vec![keys; batch]),
                    ..AttentionOptions::default()
                },
            ] {
                cases.push((shape, options));
            }
        }
        cases
    }

    fn qkv(&mut self, s: &AttentionShape) -> [Vec<f64>; 3] {
        [s.q_len(), s.kv_len(), s.kv_len()].map(|len| self.oracle.values(len))
    }

    fn q4(&self, values: &[f64], s: &AttentionShape) -> Tensor<B, 4> {
        self.tensor(values, [s.batch, s.heads, s.rows, s.dim])
    }

    fn kv4(&self, values: &[f64], s: &AttentionShape) -> Tensor<B, 4> {
        self.tensor(values, [s.batch, s.kv_heads, s.keys, s.dim])
    }

    fn attention(&mut self) {
        for (s, options) in Self::attention_cases() {
            let [q, k, v] = self.qkv(&s);
            let (want, want_lse) = plain::attention(&q, &k, &v, &options, &s);
            let (tq, tk, tv) = (self.q4(&q, &s), self.kv4(&k, &s), self.kv4(&v, &s));
            let (got, lse) = B::attention_with_lse(tq.clone(), tk.clone(), tv.clone(), &options);
            let case = format!("{s:?} {options:?}");
            self.check("attention", &case, got, &want);
            self.check(
                "attention",
                &case,
                B::scaled_dot_product_attention(tq, tk, tv, &options),
                &want,
            );
            assert_eq!(lse.dtype(), DType::F32);
            // Where nothing is visible the value only has to be hopeless.
            let (got, want): (Vec<f32>, Vec<f64>) = Self::read(lse)
                .into_iter()
                .zip(want_lse)
                .map(|(got, want)| match want {
                    Some(want) => (got, want),
                    None if got < -1e29 => (0.0, 0.0),
                    None => (got, f64::NEG_INFINITY),
                })
                .unzip();
            let tolerance = if self.dtype == DType::F16 { F16_TOLERANCE } else { F32_TOLERANCE };
            self.oracle.compare("attention log-sum-exp", self.dtype, &case, &got, &want, tolerance);
        }
    }

    fn attention_backward(&mut self) {
        for (s, options) in Self::attention_cases() {
            let [q, k, v] = self.qkv(&s);
            let grad = self.oracle.values(s.q_len());
            let want = plain::attention_backward(&q, &k, &v, &grad, &options, &s);
            let (tq, tk, tv) = (self.q4(&q, &s), self.kv4(&k, &s), self.kv4(&v, &s));
            let (out, lse) = B::attention_with_lse(tq.clone(), tk.clone(), tv.clone(), &options);
            let got = B::attention_backward(tq, tk, tv, out, lse, self.q4(&grad, &s), &options);
            for ((got, want), name) in got.into_iter().zip(&want).zip(["q", "k", "v"]) {
                let case = format!("d{name} {s:?} {options:?}");
                self.check("attention_backward", &case, got, want);
            }
        }
    }

    fn attention_cached(&mut self) {
        // (batch, heads, kv heads, dim, lengths appended one after the other)
        for (batch, heads, kv_heads, dim, steps) in [
            (1, 1, 1, 16, vec![1, 1, 1]),
            (2, 4, 2, 24, vec![7, 1, 1, 5]),
            (1, 9, 3, 64, vec![250, 1, 20, 1]),
            (2, 2, 1, 32, vec![600, 1]),
        ] {
            let total: usize = steps.iter().sum();
            for options in [
                AttentionOptions::causal(),
                AttentionOptions { window: Some(5), ..AttentionOptions::causal() },
                AttentionOptions {
                    left_padding: Some((0..batch).map(|b| b + 1).collect()),
                    ..AttentionOptions::causal()
                },
            ] {
                let shape = KvCacheShape { batch, kv_heads, head_dim: dim, capacity: total + 3 };
                let mut cache = B::KvCache::new(shape, self.dtype, self.device);
                let all = AttentionShape { batch, heads, kv_heads, rows: total, keys: total, dim };
                let [q, k, v] = self.qkv(&all);
                let part = |values: &[f64], heads: usize, first: usize, len: usize| {
                    let rows = values
                        .chunks(total * dim)
                        .flat_map(|head| head[first * dim..(first + len) * dim].to_vec());
                    let rows: Vec<f64> = rows.collect();
                    self.tensor(&rows, [batch, heads, len, dim])
                };
                // Junk that is cut off again must leave no trace.
                let junk =
                    self.tensor(&vec![9.0; batch * kv_heads * 2 * dim], [batch, kv_heads, 2, dim]);
                cache.append(junk.clone(), junk).expect("room");
                cache.truncate(0);
                let mut outputs = Vec::new();
                let mut len = 0;
                for &step in &steps {
                    cache
                        .append(part(&k, kv_heads, len, step), part(&v, kv_heads, len, step))
                        .expect("room");
                    let out = B::attention_cached(part(&q, heads, len, step), &cache, &options);
                    outputs.push((len, step, out));
                    len += step;
                }
                assert_eq!(cache.len(), total);
                let (want, _) = plain::attention(&q, &k, &v, &options, &all);
                for (first, step, out) in outputs {
                    let want: Vec<f64> = want
                        .chunks(total * dim)
                        .flat_map(|head| head[first * dim..(first + step) * dim].to_vec())
                        .collect();
                    let case = format!("{all:?} at {first}+{step} {options:?}");
                    self.check("attention_cached", &case, out, &want);
                }
            }
        }
    }

    fn packed(&mut self) {
        const SHAPES: [(usize, usize, usize); 11] = [
            (1, 32, 1),
            (2, 64, 7),
            (7, 576, 33),
            (8, 96, 5),
            (9, 32, 100),
            (33, 160, 64),
            (1, 256, 9),
            (8, 512, 7),
            (33, 768, 5),
            // Many rows.
            (70, 288, 37),
            (512, 256, 300),
        ];
        for encoding in Encoding::ALL {
            let fits = |shape: &&(_, usize, _)| shape.1.is_multiple_of(encoding.block_len());
            for &(rows, inputs, outputs) in SHAPES.iter().filter(fits) {
                let (host, weight) = self.blocks_of(encoding, outputs, inputs);
                let packed = B::pack(host, self.device);
                let case = format!("{} {rows}x{inputs}x{outputs}", encoding.name());

                let got = B::unpack(&packed, self.device, self.dtype).expect("unpack");
                self.check("unpack", &case, got, &weight);

                let ids = [outputs as u32 - 1, 0, outputs as u32 / 2];
                let want: Vec<f64> = ids
                    .iter()
                    .flat_map(|&id| weight[id as usize * inputs..][..inputs].to_vec())
                    .collect();
                let got = B::packed_rows(&packed, &ids, self.device, self.dtype).expect("rows");
                self.check("packed_rows", &case, got, &want);
                B::packed_rows(&packed, &[outputs as u32], self.device, self.dtype)
                    .expect_err("a row outside");

                let x = self.oracle.values(rows * inputs);
                let bias = self.oracle.values(outputs);
                let bias_in = self.tensor_as(&bias, [outputs], DType::F32);
                let got = B::packed_linear(self.tensor(&x, [rows, inputs]), &packed, Some(bias_in))
                    .expect("linear");
                let want = plain::linear(&x, &weight, Some(&bias), inputs);
                if self.rounds && encoding.block_len() > 1 {
                    self.check_rounded("packed_linear, 8-bit x", &case, got, &want, [&x, &weight]);
                } else {
                    let op = if rows == 1 { BY_BYTES } else { "packed_linear" };
                    self.check(op, &case, got, &want);
                }

                let grad = self.oracle.values(rows * outputs);
                let transposed: Vec<f64> = (0..inputs)
                    .flat_map(|i| (0..outputs).map(move |o| (i, o)))
                    .map(|(i, o)| weight[o * inputs + i])
                    .collect();
                let want = plain::linear(&grad, &transposed, None, outputs);
                let grad = self.tensor(&grad, [rows, outputs]);
                let got = B::packed_linear_backward(grad, &packed).expect("backward");
                self.check("packed_linear_backward", &case, got, &want);
            }
        }
    }

    /// Valid blocks with scales around 1/16.
    fn blocks(&mut self, encoding: Encoding, elements: usize) -> Vec<u8> {
        let values = self.oracle.values(elements);
        match encoding {
            Encoding::F32 => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
            Encoding::F16 => values.iter().flat_map(|&v| f16::from_f64(v).to_le_bytes()).collect(),
            Encoding::BF16 => {
                values.iter().flat_map(|&v| half::bf16::from_f64(v).to_le_bytes()).collect()
            }
            _ => {
                let scales =
                    if matches!(encoding, Encoding::Q4_1 | Encoding::Q5_1) { 2 } else { 1 };
                let codes = encoding.block_bytes() - 2 * scales;
                values
                    .chunks(encoding.block_len())
                    .flat_map(|block| {
                        let scale = |v: f64| f16::from_f64(v / 16.0).to_le_bytes();
                        let head = block[..scales].iter().flat_map(move |&v| scale(v));
                        let body = block[..codes].iter().map(|v| (v * 127.0) as i8 as u8);
                        head.chain(body).collect::<Vec<u8>>()
                    })
                    .collect()
            }
        }
    }
}
