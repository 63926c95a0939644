//! What each launch of a decode step costs: a layer's launches in turn, for many layers with weights
//! of their own, and the same with one of them left out.
//!
//! ```text
//! METAL_CANDLE_BENCH_DEVICE=vulkan cargo bench --bench step -- q4_0 f16
//! ```
//!
//! A launch alone is another matter: what it reads besides its weight is then still in the caches, and
//! nothing waits for anything else. Prints one JSON object, µs a layer; the best of many steps.

mod support;

use std::time::Instant;

use cubecl::server::Handle;
use metal_candle::dispatch::{Kernels, choose};
use metal_candle_kernels::{
    Format, Kernel, attention,
    matvec::{self, Add},
};
use serde_json::{Map, Value, json};

/// Positions in the cache, and those that there is room for.
const KEYS: u32 = 60;
const CAPACITY: u32 = 1024;
/// Steps in a sample, and samples.
const STEPS: usize = 8;
const SAMPLES: usize = 12;
/// A layer's launches.
const LAUNCHES: [&str; 5] = ["qkv", "attention", "output", "gate and up", "down"];
const ALL: u32 = (1 << LAUNCHES.len()) - 1;

/// The sizes of a model.
struct Shape {
    name: &'static str,
    layers: usize,
    hidden: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

const SHAPES: [Shape; 2] = [
    Shape {
        name: "llama-3.2-1b",
        layers: 16,
        hidden: 2048,
        inner: 8192,
        heads: 32,
        kv_heads: 8,
        dim: 64,
    },
    Shape {
        name: "llama-3-8b",
        layers: 32,
        hidden: 4096,
        inner: 14_336,
        heads: 32,
        kv_heads: 8,
        dim: 128,
    },
];

/// Bytes that are valid in every format: small numbers.
fn noise(kernels: &Kernels, bytes: usize) -> Handle {
    let mut state = 7u32;
    let values: Vec<u16> = (0..bytes.div_ceil(2))
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as u16 & 0x1fff
        })
        .collect();
    kernels.upload(bytemuck::cast_slice(&values))
}

/// One layer's weights and cache.
struct Layer {
    weights: [Handle; 4],
    cache: [Handle; 2],
}

/// A model without ends.
struct Model<'a> {
    kernels: &'a Kernels,
    shape: &'a Shape,
    format: Format,
    layers: Vec<Layer>,
    /// What a step reads and writes besides: its values are nothing to anybody.
    rows: [Handle; 4],
    padding: Handle,
    ends: Handle,
}

impl<'a> Model<'a> {
    fn new(kernels: &'a Kernels, shape: &'a Shape, format: Format) -> Self {
        let &Shape { hidden, inner, heads, kv_heads, dim, .. } = shape;
        let matrix = |rows: usize, columns: usize| {
            let bytes = rows * (columns / format.block_len()) * format.block_bytes();
            noise(kernels, bytes.next_multiple_of(4))
        };
        let layer = |_| Layer {
            weights: [
                matrix((heads + 2 * kv_heads) * dim, hidden),
                matrix(hidden, heads * dim),
                matrix(2 * inner, hidden),
                matrix(hidden, inner),
            ],
            cache: [(); 2].map(|()| noise(kernels, kv_heads * CAPACITY as usize * dim * 2)),
        };
        Self {
            kernels,
            shape,
            format,
            layers: (0..shape.layers).map(layer).collect(),
            rows: [(); 4].map(|()| noise(kernels, 4 * 2 * inner)),
            padding: kernels.params(&[0]),
            ends: noise(kernels, 4 * 2 * heads),
        }
    }

    /// A product: behind a norm (and with gates), or with a residual.
    fn product(&self, weight: &Handle, [rows, columns]: [usize; 2], gated: Option<bool>) {
        let params = matvec::Params {
            rows: rows as u32,
            columns: columns as u32,
            batch: 1,
            add: if gated.is_some() { Add::Nothing } else { Add::Each },
            norm: gated.map(|_| 1e-5),
            gated: gated == Some(true),
            ..Default::default()
        };
        let [x, out, gain, residual] = &self.rows;
        let kernel = choose::matvec(self.kernels, self.format, &params);
        let mut inputs = vec![weight, x];
        inputs.extend(gated.map(|_| gain));
        inputs.push(residual);
        let cubes = kernel.cubes(&params);
        self.launch(Kernel::MatVec(kernel), cubes, &inputs, params.words(), &[out]);
    }

    fn launch(
        &self,
        kernel: Kernel,
        cubes: u32,
        inputs: &[&Handle],
        params: Vec<u32>,
        outputs: &[&Handle],
    ) {
        // SAFETY: every buffer is at least as large as the shape says.
        unsafe { self.kernels.launch(kernel, cubes, inputs, params, outputs) }
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// With turning, and writing to the cache.
    fn attend(&self, layer: &Layer) {
        let &Shape { heads, kv_heads, dim, .. } = self.shape;
        let params = attention::Params {
            batch: 1,
            len: 1,
            heads: heads as u32,
            kv_heads: kv_heads as u32,
            keys: KEYS,
            capacity: CAPACITY,
            start: 0,
            splits: 1,
            scale: 0.1,
            soft_cap: 0.0,
            window: 0,
            causal: true,
            padded: false,
            angles_per_sequence: false,
        };
        let kernel = choose::decode(self.kernels, dim as u32, true, true, &params)
            .unwrap_or_else(|| panic!("no kernel for heads of {dim} values"));
        let [q, out, k, v] = &self.rows;
        let [keys, values] = &layer.cache;
        // Cosines and sines are as good as any other numbers here.
        let inputs = [q, k, v, k, v, keys, values, &self.padding];
        let outputs = [out, &self.ends, keys, values];
        let (kernel, cubes) = (Kernel::Decode(kernel), kernel.cubes(&params));
        self.launch(kernel, cubes, &inputs, params.words(), &outputs);
    }

    /// The launches of `which`, a bit for each.
    fn step(&self, which: u32) {
        let &Shape { hidden, inner, heads, kv_heads, dim, .. } = self.shape;
        self.kernels.gather(|| {
            for layer in &self.layers {
                let [qkv, output, gates, down] = &layer.weights;
                for launch in (0..LAUNCHES.len()).filter(|launch| which >> launch & 1 == 1) {
                    let heads_dim = heads * dim;
                    match launch {
                        0 => {
                            let rows = heads_dim + 2 * kv_heads * dim;
                            self.product(qkv, [rows, hidden], Some(false));
                        }
                        1 => self.attend(layer),
                        2 => self.product(output, [hidden, heads_dim], None),
                        3 => self.product(gates, [2 * inner, hidden], Some(true)),
                        _ => self.product(down, [hidden, inner], None),
                    }
                }
            }
        });
    }

    /// µs a layer.
    fn time(&self, which: u32) -> f64 {
        let mut best = f64::MAX;
        for _ in 0..SAMPLES {
            self.kernels.sync();
            let start = Instant::now();
            (0..STEPS).for_each(|_| self.step(which));
            self.kernels.sync();
            best = best.min(start.elapsed().as_secs_f64());
        }
        best * 1e6 / (STEPS * self.layers.len()) as f64
    }

    fn report(&self) -> Value {
        // The first launches of all wait for the driver's compiler.
        self.time(ALL);
        let layer = self.time(ALL);
        let launches = LAUNCHES.iter().enumerate().map(|(i, name)| {
            let costs = layer - self.time(ALL & !(1 << i));
            ((*name).to_owned(), json!({"costs": costs, "alone": self.time(1 << i)}))
        });
        let launches: Map<String, Value> = launches.collect();
        json!({
            "shape": self.shape.name,
            "format": self.format.name(),
            "layer": layer,
            "launches": launches,
        })
    }
}

fn main() {
    let (device, name) = support::gpu();
    let kernels = Kernels::of(&device);
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let is_asked = |format: &Format| asked.is_empty() || asked.contains(&format.name());
    let mut reports = Vec::new();
    for shape in &SHAPES {
        for format in Format::ALL.into_iter().filter(|f| *f != Format::F32).filter(is_asked) {
            reports.push(Model::new(&kernels, shape, format).report());
        }
    }
    println!("{:#}", json!({"device": name, "unit": "us", "steps": reports}));
}
