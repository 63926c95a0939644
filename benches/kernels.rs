//! Every family of GPU kernels beside the same work in stock burn operations, on one device.
//!
//! ```text
//! cargo bench --bench kernels                                        # the device of `--device auto`
//! METAL_CANDLE_BENCH_DEVICE=vulkan cargo bench --bench kernels -- matvec
//! ```
//!
//! Times are those of work that is queued without waiting between (a decode step does the same):
//! launching counts, reading back does not.

mod support;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use burn::tensor::{
    DType, Distribution, Tensor, TensorPrimitive, activation, backend::Backend as _,
};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use criterion::{Criterion, Throughput, measurement::WallTime};
use cubecl::{server::Handle, wgpu::WgpuRuntime};
use metal_candle::{
    Backend,
    backend::{
        AttentionOptions, HostPacked, KvCache, KvCacheShape, RopeOrder, RotaryStep, Wgpu,
        cube::CubeKvCache, wgpu::WgpuDevice,
    },
    dispatch::Kernels,
    quant::Encoding,
};
use metal_candle_kernels::{
    Format, Kernel,
    copy::Copy,
    dequantise,
    rope::{self, RopeAppend},
    table,
};

/// A shape of the size of an 8B model's.
const HIDDEN: usize = 4096;
const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const DIM: usize = 128;
/// Positions in the cache of a decode step.
const CONTEXT: usize = 8192;
/// Positions of a prompt.
const PROMPT: usize = 512;
/// Positions of the prompts that attention is timed with.
const PROMPTS: [usize; 4] = [512, 2048, 4096, 8192];

/// Rows of the products of prompts.
const PRODUCTS: [usize; 3] = [128, 512, 2048];

struct Bench {
    device: WgpuDevice,
    /// Of matrices and caches.
    dtype: DType,
}

impl Bench {
    fn random<const D: usize>(&self, shape: [usize; D], dtype: DType) -> Tensor<Wgpu, D> {
        let range = Distribution::Uniform(-0.1, 0.1);
        Tensor::<Wgpu, D>::random(shape, range, (&self.device, DType::F32)).cast(dtype)
    }

    /// Times `work`, queued again and again.
    fn time<T>(
        &self,
        group: &mut criterion::BenchmarkGroup<'_, WallTime>,
        name: &str,
        mut work: impl FnMut() -> T,
    ) {
        group.bench_function(name, |b| {
            b.iter_custom(|n| {
                Wgpu::sync(&self.device).expect("the device works");
                let start = Instant::now();
                for _ in 0..n {
                    black_box(work());
                }
                Wgpu::sync(&self.device).expect("the device works");
                start.elapsed()
            });
        });
    }

    fn matvec(&self, c: &mut Criterion) {
        let mut group = c.benchmark_group("matvec");
        let weight = self.random([HIDDEN, HIDDEN], self.dtype);
        group.throughput(Throughput::Bytes((HIDDEN * HIDDEN * self.dtype.size()) as u64));
        for rows in [1, 8] {
            let x = self.random([rows, HIDDEN], DType::F32);
            self.time(&mut group, &format!("{rows} rows"), || {
                Wgpu::dense_linear(x.clone(), weight.clone(), None)
            });
            let x = x.cast(self.dtype);
            self.time(&mut group, &format!("{rows} rows, burn"), || {
                x.clone().matmul(weight.clone().transpose())
            });
        }
    }

    fn matmul(&self, c: &mut Criterion) {
        let mut group = c.benchmark_group("matmul");
        let weight = self.random([HIDDEN, HIDDEN], self.dtype);
        for rows in PRODUCTS {
            group.throughput(Throughput::Elements((rows * HIDDEN * HIDDEN) as u64));
            let x = self.random([rows, HIDDEN], DType::F32);
            for encoding in [Encoding::Q4_0, Encoding::Q4_K, Encoding::Q8_0, Encoding::Q6_K] {
                // Zeros: what they stand for does not change the time.
                let bytes = encoding.bytes_for(HIDDEN * HIDDEN).expect("whole blocks");
                let blocks = HostPacked::new(vec![0; bytes], [HIDDEN, HIDDEN], encoding);
                let packed = Wgpu::pack(blocks.expect("so many bytes"), &self.device);
                self.time(&mut group, &format!("{rows} rows, {}", encoding.name()), || {
                    Wgpu::packed_linear(x.clone(), &packed, None).expect("multiplied")
                });
            }
            // As burn takes a matrix in f16, with the casts that this needs.
            self.time(&mut group, &format!("{rows} rows, f16, burn"), || {
                let x = x.clone().cast(self.dtype);
                x.matmul(weight.clone().transpose()).cast(DType::F32)
            });
        }
    }

    fn dequantise(&self, c: &mut Criterion) {
        let mut group = c.benchmark_group("dequantise");
        let kernels = Kernels::of(&self.device);
        let values = HIDDEN * HIDDEN;
        group.throughput(Throughput::Elements(values as u64));
        let params = dequantise::Params {
            rows: HIDDEN as u32,
            columns: HIDDEN as u32,
            source_rows: HIDDEN as u32,
        };
        for format in [Format::Q4_0, Format::Q4_K, Format::Q8_0] {
            // Zeros: what they stand for does not change the time.
            let bytes = values / format.block_len() * format.block_bytes();
            let blocks = kernels.upload(&vec![0; bytes]);
            let out = kernels.empty(values * 4);
            let kernel =
                Kernel::Dequantise(dequantise::Dequantise { format, f16: false, gather: false });
            let cubes = dequantise::Dequantise::cubes(&params);
            self.time(&mut group, &format.name(), || {
                // SAFETY: the buffers were made for these parameters.
                unsafe { kernels.launch(kernel, cubes, &[&blocks], params.words(), &[&out]) }
                    .expect("launched");
            });
        }
        let halves = self.random([HIDDEN, HIDDEN], self.dtype);
        self.time(&mut group, "from f16, burn", || halves.clone().cast(DType::F32));
    }

    fn norm(&self, c: &mut Criterion) {
        let mut group = c.benchmark_group("norm");
        for rows in [1, PROMPT] {
            let [x, residual] = [(); 2].map(|()| self.random([rows, HIDDEN], DType::F32));
            let weight = self.random([HIDDEN], DType::F32);
            self.time(&mut group, &format!("{rows} rows"), || {
                Wgpu::add_rms_norm(x.clone(), residual.clone(), weight.clone(), 1e-5)
            });
            self.time(&mut group, &format!("{rows} rows, burn"), || {
                let sum = x.clone() + residual.clone();
                let rms = (sum.clone() * sum.clone()).mean_dim(1).add_scalar(1e-5).sqrt();
                [sum.clone() / rms * weight.clone().unsqueeze(), sum]
            });
        }
    }

    fn swiglu(&self, c: &mut Criterion) {
        let mut group = c.benchmark_group("swiglu");
        for rows in [1, PROMPT] {
            let [gate, up] = [(); 2].map(|()| self.random([rows, 14_336], DType::F32));
            self.time(&mut group, &format!("{rows} rows"), || {
                Wgpu::swiglu(gate.clone(), up.clone())
            });
            self.time(&mut group, &format!("{rows} rows, burn"), || {
                activation::silu(gate.clone()) * up.clone()
            });
        }
    }

    /// Queries and keys turned, keys and values written to a cache, for one position.
    fn rope(&self, c: &mut Criterion) {
        let mut group = c.benchmark_group("rope");
        let kernels = Kernels::of(&self.device);
        let f16 = self.dtype == DType::F16;
        let kernel = Kernel::RopeAppend(RopeAppend { adjacent: false, f16 });
        let params = rope::Params {
            batch: 1,
            len: 1,
            heads: HEADS as u32,
            kv_heads: KV_HEADS as u32,
            dim: DIM as u32,
            capacity: CONTEXT as u32,
            start: 0,
            per_sequence: false,
        };
        let floats = |n: usize| kernels.upload(&vec![0; n * 4]);
        let (q, turned) = (floats(HEADS * DIM), floats(HEADS * DIM));
        let [k, v] = [(); 2].map(|()| floats(KV_HEADS * DIM));
        let [cos, sin] = [(); 2].map(|()| floats(DIM / 2));
        let [keys, values] =
            [(); 2].map(|()| kernels.empty(KV_HEADS * CONTEXT * DIM * self.dtype.size()));
        self.time(&mut group, "1 row", || {
            let inputs = [&q, &k, &v, &cos, &sin];
            let outputs = [&turned, &keys, &values];
            // SAFETY: the buffers were made for these parameters.
            unsafe { kernels.launch(kernel, params.cubes(), &inputs, params.words(), &outputs) }
                .expect("launched");
        });
        let q = self.random([1, HEADS, 1, DIM], DType::F32);
        let k = self.random([1, KV_HEADS, 1, DIM], DType::F32);
        let angles = self.random([1, 1, DIM / 2], DType::F32);
        let mut held = [(); 2].map(|()| self.random([1, KV_HEADS, CONTEXT, DIM], self.dtype));
        self.time(&mut group, "1 row, burn", || {
            let turn = |x| Wgpu::rope(x, angles.clone(), angles.clone(), RopeOrder::HalfSplit);
            let place = [0..1, 0..KV_HEADS, 0..1, 0..DIM];
            for held in &mut held {
                let new = turn(k.clone()).cast(self.dtype);
                *held = held.clone().slice_assign(place.clone(), new);
            }
            turn(q.clone())
        });
    }

    fn cache(&self, positions: usize, capacity: usize) -> CubeKvCache<WgpuRuntime> {
        let shape = KvCacheShape { batch: 1, kv_heads: KV_HEADS, head_dim: DIM, capacity };
        let mut cache = CubeKvCache::new(shape, self.dtype, &self.device);
        let [k, v] = [(); 2].map(|()| self.random([1, KV_HEADS, positions, DIM], self.dtype));
        cache.append(k, v).expect("there is room");
        cache
    }

    /// One new position: turned, written and attended with; then a prompt.
    fn attention(&self, c: &mut Criterion) {
        let prompts = PROMPTS.map(|len| (format!("prompt {len}"), 0, len));
        let decode = ("rope and decode".to_string(), CONTEXT - 1, 1);
        for (name, held, len) in [decode].into_iter().chain(prompts) {
            let mut group = c.benchmark_group(name);
            let q = self.random([len, HEADS * DIM], DType::F32);
            let [k, v] = [(); 2].map(|()| self.random([len, KV_HEADS * DIM], DType::F32));
            let angles = |x: f32| Tensor::<Wgpu, 3>::full([1, len, DIM / 2], x, &self.device);
            let step = RotaryStep {
                batch: 1,
                len,
                cos: angles(0.8),
                sin: angles(0.6),
                order: RopeOrder::HalfSplit,
                options: AttentionOptions::causal(),
            };
            let mut cache = self.cache(held.max(1), held.max(1) + len);
            let full = self.cache(held + len, held + len);
            self.time(&mut group, "kernels", || {
                cache.truncate(held);
                let all = [q.clone(), k.clone(), v.clone()];
                Wgpu::rotary_attention(all, DIM, &step, Some(&mut cache)).expect("there is room")
            });
            // All scores in one buffer, of which wgpu makes none of 2 GiB.
            let scores = HEADS * len * (held + len) * DType::F32.size();
            let held_all: Tensor<Wgpu, 4> = self.random([1, KV_HEADS, held + len, DIM], DType::F32);
            let q = q.reshape([1, len, HEADS, DIM]).swap_dims(1, 2);
            self.time(&mut group, "attention alone", || {
                full.attend(q.clone(), &AttentionOptions::causal())
            });
            if scores >= 1 << 31 {
                continue;
            }
            self.time(&mut group, "attention alone, burn", || {
                let keys = held_all.clone();
                let grouped = q.clone().reshape([1, KV_HEADS, HEADS / KV_HEADS * len, DIM]);
                let scores = grouped.matmul(keys.clone().swap_dims(2, 3)) * 0.088;
                activation::softmax(scores, 3).matmul(keys)
            });
        }
    }

    fn copy(&self, c: &mut Criterion) {
        let mut group = c.benchmark_group("copy");
        let kernels = Kernels::of(&self.device);
        let bytes = 64 << 20;
        group.throughput(Throughput::Bytes(2 * bytes as u64));
        let (source, target) = (kernels.empty(bytes), kernels.empty(bytes));
        for kernel in table() {
            let Kernel::Copy(variant) = kernel else { continue };
            let cubes = (bytes / Copy::bytes_per_cube(variant)) as u32;
            let buffers: [&Handle; 2] = [&source, &target];
            self.time(&mut group, &kernel.name(), || {
                // SAFETY: so many cubes copy no more than the buffers hold.
                unsafe { kernels.launch_buffers(kernel, cubes, &buffers) }.expect("launched");
            });
        }
        let source = self.random([bytes / 4], DType::F32);
        self.time(&mut group, "burn", || {
            let tensor: CubeTensor<WgpuRuntime> =
                into_contiguous(source.clone().into_primitive().tensor()).copy();
            Tensor::<Wgpu, 1>::from_primitive(TensorPrimitive::Float(tensor))
        });
    }
}

fn main() {
    let (device, name) = support::gpu();
    println!("{name}");
    let f16 = Kernels::of(&device).f16();
    let bench = Bench { device, dtype: if f16 { DType::F16 } else { DType::F32 } };
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    bench.copy(&mut criterion);
    bench.matvec(&mut criterion);
    bench.matmul(&mut criterion);
    bench.dequantise(&mut criterion);
    bench.norm(&mut criterion);
    bench.swiglu(&mut criterion);
    bench.rope(&mut criterion);
    bench.attention(&mut criterion);
    criterion.final_summary();
}
