//! Gradients through the custom backward steps against plain f64, on every backend.

#[path = "oracle/plain.rs"]
#[allow(dead_code)] // the oracle uses the rest
mod plain;
mod support;

use burn::tensor::{DType, Tensor, TensorData};
use metal_candle::{
    AutodiffBackend,
    backend::{AttentionOptions, Autodiff, Candle, Cpu, HostPacked, Wgpu, wgpu::ShaderLanguage},
    quant::Encoding,
};
use plain::AttentionShape;

fn values(len: usize, phase: f64) -> Vec<f64> {
    (0..len).map(|i| f64::from((i as f32 * 0.713 + phase as f32).sin())).collect()
}

fn tensor<B: AutodiffBackend, const D: usize>(
    values: &[f64],
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

fn assert_close<B: AutodiffBackend, const D: usize>(
    got: Option<Tensor<B::InnerBackend, D>>,
    want: &[f64],
) {
    let got: Vec<f32> = got.expect("a gradient").into_data().into_vec().expect("f32");
    let scale = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (got, want) in got.iter().zip(want) {
        assert!((f64::from(*got) - want).abs() / scale < 2e-5, "{got} and {want}");
    }
}

fn attention<B: AutodiffBackend>(device: &B::Device) {
    let s = AttentionShape { batch: 2, heads: 4, kv_heads: 2, rows: 150, keys: 160, dim: 24 };
    let options = AttentionOptions {
        left_padding: Some(vec![0, 12]),
        softcap: Some(3.0),
        ..AttentionOptions::causal()
    };
    let (q, k, v) = (values(s.q_len(), 0.1), values(s.kv_len(), 1.7), values(s.kv_len(), 2.9));
    let grad = values(s.q_len(), 4.2);
    let q_shape = [s.batch, s.heads, s.rows, s.dim];
    let kv_shape = [s.batch, s.kv_heads, s.keys, s.dim];
    let tq = tensor::<B, 4>(&q, q_shape, device).require_grad();
    let tk = tensor::<B, 4>(&k, kv_shape, device).require_grad();
    let tv = tensor::<B, 4>(&v, kv_shape, device).require_grad();
    let out = B::scaled_dot_product_attention(tq.clone(), tk.clone(), tv.clone(), &options);
    let loss = (out * tensor::<B, 4>(&grad, q_shape, device)).sum();
    let grads = loss.backward();
    let want = plain::attention_backward(&q, &k, &v, &grad, &options, &s);
    for (tensor, want) in [tq, tk, tv].iter().zip(&want) {
        assert_close::<B, 4>(tensor.grad(&grads), want);
    }
}

fn packed_linear<B: AutodiffBackend>(device: &B::Device) {
    let (rows, inputs, outputs) = (5, 64, 3);
    let weight = values(outputs * inputs, 0.4);
    let bytes: Vec<u8> = weight.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect();
    let packed = HostPacked::new(bytes, [outputs, inputs], Encoding::F32).expect("shape");
    let packed = B::pack(packed, device);
    let x = tensor::<B, 2>(&values(rows * inputs, 1.0), [rows, inputs], device).require_grad();
    let grad = values(rows * outputs, 2.0);
    let out = B::packed_linear(x.clone(), &packed, None).expect("packed_linear");
    let grads = (out * tensor::<B, 2>(&grad, [rows, outputs], device)).sum().backward();
    let want: Vec<f64> = (0..rows * inputs)
        .map(|i| {
            let (row, input) = (i / inputs, i % inputs);
            (0..outputs).map(|o| grad[row * outputs + o] * weight[o * inputs + input]).sum()
        })
        .collect();
    assert_close::<B, 2>(x.grad(&grads), &want);
}

fn dense_linear<B: AutodiffBackend>(device: &B::Device) {
    let (rows, inputs, outputs) = (5, 33, 3);
    let (x, w) = (values(rows * inputs, 1.0), values(outputs * inputs, 0.4));
    let grad = values(rows * outputs, 2.0);
    let tx = tensor::<B, 2>(&x, [rows, inputs], device).require_grad();
    let tw = tensor::<B, 2>(&w, [outputs, inputs], device).require_grad();
    let tb = tensor::<B, 1>(&values(outputs, 3.0), [outputs], device).require_grad();
    let out = B::dense_linear(tx.clone(), tw.clone(), Some(tb.clone()));
    let grads = (out * tensor::<B, 2>(&grad, [rows, outputs], device)).sum().backward();
    let sum = |n: usize, f: &dyn Fn(usize) -> f64| (0..n).map(f).sum::<f64>();
    let dx: Vec<f64> = (0..rows * inputs)
        .map(|i| sum(outputs, &|o| grad[i / inputs * outputs + o] * w[o * inputs + i % inputs]))
        .collect();
    let dw: Vec<f64> = (0..outputs * inputs)
        .map(|i| sum(rows, &|r| grad[r * outputs + i / inputs] * x[r * inputs + i % inputs]))
        .collect();
    let db: Vec<f64> = (0..outputs).map(|o| sum(rows, &|r| grad[r * outputs + o])).collect();
    assert_close::<B, 2>(tx.grad(&grads), &dx);
    assert_close::<B, 2>(tw.grad(&grads), &dw);
    assert_close::<B, 1>(tb.grad(&grads), &db);
}

/// A whole chain of the smaller operations against finite differences.
fn chain<B: AutodiffBackend>(device: &B::Device) {
    use metal_candle::backend::RopeOrder;
    let (rows, dim) = (3, 8);
    let x0 = values(rows * dim, 0.3);
    let weight = values(dim * dim, 1.1);
    let norm = values(dim, 2.2);
    let loss = |x: Tensor<B, 2>| -> Tensor<B, 1> {
        let w = tensor::<B, 2>(&weight, [dim, dim], device);
        let normed = B::rms_norm(x, tensor::<B, 1>(&norm, [dim], device), 1e-5);
        let gate = B::dense_linear(normed.clone(), w, None);
        let y = B::swiglu(gate, normed).reshape([1, 1, rows, dim]);
        let angles = |f: fn(f64) -> f64| {
            let table: Vec<f64> = (0..rows * dim / 2).map(|i| f(i as f64)).collect();
            tensor::<B, 3>(&table, [1, rows, dim / 2], device)
        };
        let y = B::rope(y, angles(f64::cos), angles(f64::sin), RopeOrder::AdjacentPairs);
        (y * tensor::<B, 4>(&values(rows * dim, 5.0), [1, 1, rows, dim], device)).sum()
    };
    let x = tensor::<B, 2>(&x0, [rows, dim], device).require_grad();
    let grads = loss(x.clone()).backward();
    let got: Vec<f32> = x.grad(&grads).expect("a gradient").into_data().into_vec().expect("f32");
    let at = |i: usize, step: f64| -> f64 {
        let mut moved = x0.clone();
        moved[i] += step;
        let loss = loss(tensor::<B, 2>(&moved, [rows, dim], device));
        f64::from(loss.into_data().into_vec::<f32>().expect("f32")[0])
    };
    for (i, got) in got.iter().enumerate() {
        let want = (at(i, 1e-2) - at(i, -1e-2)) / 2e-2;
        // The difference quotient itself is only good to about 1e-3 in f32.
        assert!((f64::from(*got) - want).abs() < 5e-3, "{i}: {got} and {want}");
    }
}

fn all<B: AutodiffBackend>(device: &B::Device) {
    attention::<B>(device);
    dense_linear::<B>(device);
    packed_linear::<B>(device);
    chain::<B>(device);
}

#[test]
fn cpu() {
    all::<Autodiff<Cpu>>(&Default::default());
}

#[test]
fn candle() {
    all::<Autodiff<Candle>>(&Default::default());
}

#[test]
fn wgpu_spirv() {
    all::<Autodiff<Wgpu>>(&support::wgpu(ShaderLanguage::SpirV).0);
}

#[test]
fn wgpu_wgsl() {
    all::<Autodiff<Wgpu>>(&support::wgpu(ShaderLanguage::Wgsl).0);
}
