//! Memory of a device while adapters are swapped.

use burn::tensor::DType;
use cubecl::{Runtime, wgpu::WgpuRuntime};
use metal_candle::{
    adapters::{AdapterRegistry, ApplyAdapter},
    backend::{Wgpu, wgpu::ShaderLanguage},
};

use crate::{
    adapted::{ADAPTERS, load, logits, registry, swap},
    alone,
    support::{Golden, fixture, wgpu},
};

#[test]
fn swaps_leave_device_memory_flat() {
    let _alone = alone();
    let device = wgpu(ShaderLanguage::SpirV).0;
    let in_use = || WgpuRuntime::client(&device).memory_usage().expect("memory").bytes_in_use;
    let golden = Golden::open("reference/lora/llama/all_linear/reference.safetensors");
    let ids = golden.ids("input_ids");
    let model = load::<Wgpu>("reference/models/llama", DType::F32, true, &device);
    let one = {
        let registry = registry(&model, "llama");
        registry.list_adapters().iter().map(|info| info.bytes).max().expect("three")
    };
    // Room for the largest alone: nearly every swap takes an adapter from host memory.
    let tight = AdapterRegistry::new(model.slots()).with_budget(one);
    let roomy = registry(&model, "llama");
    for name in ADAPTERS {
        let folder = fixture(&format!("reference/lora/llama/{name}"));
        tight.load_adapter(name, &folder).expect(name);
    }
    let run = |registry: &AdapterRegistry<Wgpu>| {
        logits(&registry.adapt(&model).expect("this model"), &ids);
    };
    let round = |swaps: usize| {
        swap(&roomy, swaps);
        run(&roomy);
        for i in 0..swaps / 100 {
            // What is applied is in use, and would not give way.
            tight.remove_adapter();
            tight.apply_adapter(ADAPTERS[i % 3]).expect("applied");
        }
        run(&tight);
        tight.remove_adapter();
        assert!(tight.bytes_used() <= one, "{} of {one}", tight.bytes_used());
    };
    round(400);
    let before = in_use();
    round(10_000);
    let after = in_use();
    // Which adapter stayed last decides about as much.
    assert!(after <= before + one, "{before} bytes before, {after} after");
}
