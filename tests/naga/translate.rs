//! WGSL to Metal by naga, with the options that wgpu's Metal backend gives it for CubeCL's modules.

use std::ops::RangeInclusive;

use metal_candle::dispatch::{Entry, check::Buffer, check::Case};
use naga::{
    AddressSpace, ArraySize, ResourceBinding, ShaderStage, StorageAccess, TypeInner,
    back::msl::{self, BindTarget, EntryPointResources},
    proc::{BoundsCheckPolicies, BoundsCheckPolicy},
    valid::{Capabilities, GlobalUse, ValidationFlags, Validator},
};

/// In the manifest's one array of workgroup memory, variables begin where their type may, up to so many bytes
/// apart: how much lies between them depends on an order that differs from build to build.
const PART: usize = 16;

/// A kernel's WGSL as Metal, and what naga knows of it.
pub struct Translated {
    /// Metal's text.
    pub text: String,
    /// The entry point's name in it: naga renames what ends with a digit.
    pub entry: String,
    /// Threads of a workgroup.
    pub threads: [u32; 3],
    /// The storage buffers in the order of their declaration: the binding, and whether the kernel
    /// writes it.
    pub buffers: Vec<(ResourceBinding, bool)>,
    /// Workgroup memory, in bytes: without and with what may lie between variables.
    pub shared_bytes: RangeInclusive<usize>,
}

/// Translates a kernel. Its needs in the manifest are all that it may use.
pub fn translate(wgsl: &str, entry: &Entry) -> Result<Translated, String> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|error| error.emit_to_string(wgsl))?;
    let mut capabilities = Capabilities::default();
    capabilities.set(Capabilities::SHADER_FLOAT16, entry.needs.f16);
    // What takes words apart, which every device has that is not OpenGL.
    capabilities.set(Capabilities::SHADER_FLOAT16_IN_FLOAT32, entry.needs.f16);
    capabilities.set(Capabilities::SUBGROUP, entry.needs.plane.is_some());
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map_err(|error| error.emit_to_string(wgsl))?;
    let at = module.entry_points.iter().position(|point| point.name == entry.name);
    let at = at.ok_or_else(|| format!("no entry point {}", entry.name))?;

    let uses = info.get_entry_point(at);
    let mut buffers = Vec::new();
    let (mut least, mut most) = (0, 0);
    let mut resources = EntryPointResources::default();
    for (handle, variable) in module.global_variables.iter() {
        let ty = &module.types[variable.ty].inner;
        match (variable.space, variable.binding) {
            (AddressSpace::WorkGroup, _) => {
                let bytes = ty.size(module.to_ctx()) as usize;
                least += bytes;
                most += bytes.next_multiple_of(PART);
            }
            (AddressSpace::Storage { access }, Some(binding)) => {
                // The sizes of what is not an array without end are not asked for.
                if !matches!(ty, TypeInner::Array { size: ArraySize::Dynamic, .. }) {
                    return Err(format!("{:?} is no runtime-sized array", variable.name));
                }
                // wgpu counts Metal's buffers as the group's layout lists them: by binding.
                let target = BindTarget {
                    buffer: Some(binding.binding as u8),
                    mutable: access.contains(StorageAccess::STORE),
                    ..Default::default()
                };
                resources.resources.insert(binding, target);
                buffers.push((binding, uses[handle].contains(GlobalUse::WRITE)));
            }
            (space, binding) => return Err(format!("a variable in {space:?} at {binding:?}")),
        }
    }
    resources.sizes_buffer = Some(buffers.len() as u8);

    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = msl::Options {
        lang_version: (3, 0),
        per_entry_point_map: [(entry.name.to_owned(), resources)].into(),
        inline_samplers: Vec::new(),
        spirv_cross_compatibility: false,
        fake_missing_bindings: false,
        // CubeCL asks for none of wgpu's checks, and for no zeros in workgroup memory.
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, entry.name.to_owned())),
        ..Default::default()
    };
    let (text, written) = msl::write_string(&module, &info, &options, &pipeline)
        .map_err(|error| error.to_string())?;
    let [name] = &written.entry_point_names[..] else {
        return Err(format!("{} entry points", written.entry_point_names.len()));
    };
    Ok(Translated {
        text,
        entry: name.clone().map_err(|error| error.to_string())?,
        threads: module.entry_points[at].workgroup_size,
        buffers,
        shared_bytes: least.next_multiple_of(PART)..=most,
    })
}

impl Translated {
    /// Where the manifest says something else of the kernel.
    pub fn deviations(&self, entry: &Entry) -> Vec<String> {
        let mut found = Vec::new();
        let mut same = |what: &str, naga: String, manifest: String| {
            if naga != manifest {
                found.push(format!("{}: {what}: naga {naga}, manifest {manifest}", entry.name));
            }
        };
        let in_order =
            (0..entry.writes.len() as u32).map(|binding| ResourceBinding { group: 0, binding });
        let expected: Vec<_> = in_order.zip(entry.writes.iter().copied()).collect();
        same("buffers", format!("{:?}", self.buffers), format!("{expected:?}"));
        same("threads", format!("{:?}", self.threads), format!("{:?}", entry.cube_dim));
        let manifest = entry.shared_bytes.next_multiple_of(PART);
        if !self.shared_bytes.contains(&manifest) {
            let naga = self.shared_bytes.start();
            found.push(format!("{}: shared bytes: naga {naga}, manifest {manifest}", entry.name));
        }
        found
    }

    /// The buffer behind a case's own: naga's Metal is given the sizes of all that are arrays
    /// without end, in the order of their declaration.
    pub fn sizes(&self, case: &Case) -> Vec<u8> {
        self.buffers
            .iter()
            .filter_map(|(binding, _)| case.buffers.get(binding.binding as usize))
            .map(|buffer| match buffer {
                Buffer::Input(bytes) | Buffer::Both(bytes, _) => bytes.len(),
                Buffer::Output(expected) => expected.bytes(),
            })
            .flat_map(|bytes| (bytes as u32).to_le_bytes())
            .collect()
    }
}
