//! Every kernel, variant and element type with its options and optional ports: the shader compiles, the module is
//! valid SPIR-V and does what the manifest says, and what we read from it agrees with a second reflection library.
//! Shaders that do something else are refused.

#![cfg(feature = "shaderc")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use graphc::compile::Job;
use graphc::device::{Choice, DeviceProfile, Feature};
use graphc::diag::Diagnostic;
use graphc::dtype::DType;
use graphc::expr::Value;
use graphc::formula::{decode, encode};
use graphc::graph::Request;
use graphc::interp::Interpreter;
use graphc::kernel::build::{BuildRequest, Builder, CachedBuilder, ShadercBuilder, flatten};
use graphc::kernel::check::check;
use graphc::kernel::reflect::{ReflectError, Reflection, reflect};
use graphc::kernel::select::{Selected, select};
use graphc::kernel::{Binding, Manifest, OptionDecl, PortType, ShapeItem, type_values};
use graphc::plan::Plan;
use graphc::span::{SourceError, SourceMap, Sources};
use rayon::prelude::*;

/// Sizes that satisfy every kernel, by dim name or option name.
const SIZES: &[(&str, i64)] = &[
    ("heads", 2),
    ("kv_heads", 1),
    ("head_dim", 64),
    ("max_len", 70),
    ("rope_heads", 1),
    ("rope_head_dim", 32),
    ("d_qkv", 256),
    ("m", 48),
    ("n", 160),
    ("k", 96),
    ("d", 70),
    ("v", 50),
    ("p", 19),
    ("t", 2),
    ("b", 3),
    ("slots_n", 5),
    ("vocab", 300),
    ("steps", 4),
    ("ctx", 300),
];

fn size(name: &str) -> i64 {
    let found = SIZES.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no size for `{name}`")).1
}

/// A device that can do everything, and so small that variants for large work take the sizes here.
fn device() -> DeviceProfile {
    DeviceProfile {
        features: Feature::ALL.into(),
        limits: graphc::device::Limits {
            subgroup_size: 32,
            compute_units: Some(1),
            max_shared_memory: 48 << 10,
            ..support::profile().limits
        },
        ..support::profile()
    }
}

fn builder() -> CachedBuilder<ShadercBuilder> {
    let cache = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("spirv");
    CachedBuilder::new(cache, ShadercBuilder::new().unwrap())
}

/// Every way to pick one from each list.
fn choices<T: Clone>(lists: &[(String, Vec<T>)]) -> Vec<BTreeMap<String, T>> {
    lists
        .iter()
        .fold(vec![BTreeMap::new()], |all, (name, list)| {
            let with = |one: &BTreeMap<String, T>, item: &T| {
                let mut one = one.clone();
                one.insert(name.clone(), item.clone());
                one
            };
            all.iter()
                .flat_map(|one| list.iter().map(move |item| with(one, item)))
                .collect()
        })
}

/// Optional ports: none, each alone, all that go together, and all of those but each.
fn port_sets(
    manifest: &Manifest,
    types: &BTreeMap<String, DType>,
    options: &BTreeMap<String, Value>,
) -> (BTreeSet<BTreeSet<String>>, Vec<BTreeSet<String>>) {
    let optional = manifest.ports.iter().filter(|port| port.optional);
    let names: Vec<&str> = optional.map(|port| port.name.as_str()).collect();
    let set = |bits: u32| -> BTreeSet<String> {
        let members = names
            .iter()
            .enumerate()
            .filter(|(at, _)| bits >> at & 1 == 1);
        members.map(|(_, name)| name.to_string()).collect()
    };
    let possible = |bits: &u32| {
        ROWS.iter()
            .any(|rows| binding(manifest, types, options, &set(*bits), *rows).is_some())
    };
    let all: Vec<u32> = (0..1 << names.len()).filter(possible).collect();
    let largest: Vec<u32> = all
        .iter()
        .filter(|bits| {
            !all.iter()
                .any(|other| *other != **bits && other & **bits == **bits)
        })
        .copied()
        .collect();
    let mut sets = BTreeSet::from([0]);
    for bit in 0..names.len() {
        sets.insert(1 << bit);
        sets.extend(largest.iter().map(|bits| bits & !(1 << bit)));
    }
    sets.extend(&largest);
    (
        sets.into_iter().map(set).collect(),
        largest.into_iter().map(set).collect(),
    )
}

/// Many rows, a batch, few or one: variants differ in what they take.
const ROWS: [i64; 5] = [48, 129, 6, 12, 1];

/// The default options, then each value of each condition and choice.
fn option_sets(manifest: &Manifest) -> Vec<BTreeMap<String, Value>> {
    let mut base = BTreeMap::new();
    for (name, decl) in &manifest.options {
        let value = match decl {
            OptionDecl::Int { default, .. } if SIZES.iter().any(|(known, _)| known == name) => {
                let _ = default;
                Value::Int(size(name))
            }
            OptionDecl::Int { default, .. } => Value::Int(default.unwrap()),
            OptionDecl::Float { default } => Value::Float(default.unwrap()),
            OptionDecl::Bool { default } => Value::Bool(*default),
            OptionDecl::Choice { default, .. } => Value::Text(default.clone()),
        };
        base.insert(name.clone(), value);
    }
    let mut sets = vec![base.clone()];
    for (name, decl) in &manifest.options {
        let values: Vec<Value> = match decl {
            OptionDecl::Bool { default } => vec![Value::Bool(!default)],
            OptionDecl::Choice { of, default } => of
                .iter()
                .filter(|choice| *choice != default)
                .map(|choice| Value::Text(choice.clone()))
                .collect(),
            OptionDecl::Int { .. } | OptionDecl::Float { .. } => vec![],
        };
        for value in values {
            let mut set = base.clone();
            set.insert(name.clone(), value);
            sets.push(set);
        }
    }
    sets
}

/// A binding at `SIZES`, or none if the manifest does not allow the combination.
fn binding(
    manifest: &Manifest,
    types: &BTreeMap<String, DType>,
    options: &BTreeMap<String, Value>,
    optional: &BTreeSet<String>,
    rows: i64,
) -> Option<Binding> {
    let size = |name: &str| if name == "m" { rows } else { size(name) };
    let mut env: BTreeMap<String, Value> = options.clone();
    let mut dims = BTreeMap::new();
    for port in &manifest.ports {
        let bound = !port.optional || optional.contains(&port.name);
        env.insert(
            format!("has_{}", port.name),
            Value::Bool(bound && !port.scratch),
        );
        for item in &port.shape {
            if let ShapeItem::Leading(name) | ShapeItem::Dim(name) = item {
                dims.insert(name.clone(), size(name));
            }
        }
    }
    let types_text = types
        .iter()
        .flat_map(|(name, dtype)| type_values(name, *dtype));
    env.extend(types_text);
    env.extend(
        dims.iter()
            .map(|(name, size)| (name.clone(), Value::Int(*size))),
    );
    for (name, expr) in &manifest.derive {
        let value = expr.eval(&env).unwrap();
        dims.insert(name.clone(), value.as_int().unwrap());
        env.insert(name.clone(), value);
    }
    if !manifest
        .require
        .iter()
        .all(|rule| rule.eval_bool(&env).unwrap())
    {
        return None;
    }
    let ports = manifest.ports.iter().map(|port| {
        let sizes = port.shape.iter().map(|item| match item {
            ShapeItem::Leading(name) | ShapeItem::Dim(name) => env[name].as_int().unwrap() as u64,
            ShapeItem::Is(expr) => expr.eval_size(&env).unwrap(),
        });
        let sizes: Vec<u64> = sizes.collect();
        let bound = !port.optional || optional.contains(&port.name);
        let needed = !port.scratch || sizes.iter().product::<u64>() > 0;
        let dtype = match &port.dtype {
            PortType::Fixed(dtype) => *dtype,
            PortType::Var(variable) => types[variable],
        };
        (bound && needed).then_some((dtype, sizes))
    });
    Some(Binding {
        dims,
        types: types.clone(),
        options: options.clone(),
        ports: ports.collect(),
    })
}

struct Built {
    what: String,
    bound: Vec<bool>,
    selected: Selected,
    words: Vec<u32>,
}

/// Every instance of `manifest` that is worth building: all port sets with the default options, and all options with
/// the largest port sets. Where types and ports have very many combinations, each set of types takes some of them.
fn instances(manifest: &Manifest) -> Vec<Built> {
    let (device, builder) = (device(), builder());
    let variables: Vec<(String, Vec<DType>)> = manifest
        .types
        .iter()
        .map(|(name, types)| (name.clone(), types.clone()))
        .collect();
    let options = option_sets(manifest);
    let all_types = choices(&variables);
    let parts = if all_types.len() > 8 { 6 } else { 1 };
    let mut built = Vec::new();
    for (turn, types) in all_types.into_iter().enumerate() {
        let (sets, largest) = port_sets(manifest, &types, &options[0]);
        let by_ports = sets.iter().map(|ports| (&options[0], ports));
        let by_options = options[1..]
            .iter()
            .flat_map(|options| largest.iter().map(move |ports| (options, ports)));
        let worth = by_ports.chain(by_options).enumerate();
        for (_, (options, ports)) in worth.filter(|(at, _)| turn == 0 || at % parts == turn % parts)
        {
            let bindings: Vec<Binding> = ROWS
                .into_iter()
                .filter_map(|rows| binding(manifest, &types, options, ports, rows))
                .collect();
            for variant in &manifest.variants {
                let what = format!(
                    "{} {} {types:?} {ports:?} {options:?}",
                    manifest.name, variant.name
                );
                // A variant with several shapes of tile is built with one after the other.
                let mut device = device.clone();
                let shape = variant.spec.iter().find(|spec| spec.name == "SHAPE");
                device.choices.extend(shape.map(|shape| {
                    let of_variant = |one: &&Built| one.selected.variant == variant.name;
                    let before = built.iter().filter(of_variant).count() as u32;
                    let number = shape.min + before % (shape.max - shape.min + 1);
                    let choice = Choice {
                        when: None,
                        variant: variant.name.clone(),
                        spec: BTreeMap::from([("SHAPE".into(), number)]),
                    };
                    (manifest.name.clone(), vec![choice])
                }));
                // Some variants are for narrow subgroups only.
                let narrow = DeviceProfile {
                    limits: graphc::device::Limits {
                        subgroup_size: 8,
                        ..device.limits.clone()
                    },
                    ..device.clone()
                };
                let devices = [&device, &narrow];
                let places = devices
                    .into_iter()
                    .flat_map(|device| bindings.iter().map(move |binding| (device, binding)));
                let chosen = places.into_iter().find_map(|(device, binding)| {
                    match select(manifest, binding, device, Some(&variant.name)) {
                        Ok(selected) => Some((binding, selected)),
                        Err(error) if error.message.ends_with("does not hold") => None,
                        Err(error) => panic!("{what}: {}", error.message),
                    }
                });
                let Some((binding, selected)) = chosen else {
                    continue;
                };
                let request = BuildRequest {
                    shader: &selected.shader,
                    defines: &selected.defines,
                };
                let flat = flatten(request, &support::sources()).unwrap();
                let words = builder.build(&flat);
                built.push(Built {
                    words: words.unwrap_or_else(|error| panic!("{what}: {error}")),
                    bound: binding.ports.iter().map(Option::is_some).collect(),
                    selected,
                    what,
                });
            }
        }
    }
    for variant in &manifest.variants {
        let here = built
            .iter()
            .any(|one: &Built| one.selected.variant == variant.name);
        assert!(here, "{} {}: never built", manifest.name, variant.name);
    }
    built
}

/// Every kernel of the repository with its instances, built once for all tests.
fn all() -> &'static [(Manifest, Vec<Built>)] {
    static ALL: OnceLock<Vec<(Manifest, Vec<Built>)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let manifests: Vec<Manifest> = support::library().manifests.into_values().collect();
        let built = manifests.into_par_iter().map(|manifest| {
            let instances = instances(&manifest);
            (manifest, instances)
        });
        built.collect()
    })
}

#[test]
fn every_shader_keeps_its_manifests_word() {
    let mut compared = 0;
    for (manifest, instances) in all() {
        for Built {
            what,
            bound,
            selected,
            words,
        } in instances
        {
            let module =
                reflect(words, &selected.spec).unwrap_or_else(|error| panic!("{what}: {error}"));
            let bindings = check(manifest, selected, bound, &module)
                .unwrap_or_else(|error| panic!("{what}: {}", error.message));
            assert_eq!(
                bindings.len(),
                bound.iter().filter(|bound| **bound).count(),
                "{what}"
            );
            // The sizes are chosen so that nothing is left out but what other variants keep in scratch.
            let ports = manifest.ports.iter().zip(bound);
            let needed = ports.filter(|(port, bound)| **bound && !port.scratch);
            assert!(module.bindings.len() >= needed.count(), "{what}");
            assert_eq!(module.entry, "main");
            compared += usize::from(agrees(what, words, &module));
        }
    }
    assert!(
        compared > 100,
        "the other library read {compared} modules only"
    );
}

/// Compares with spirq; false if that cannot read the module.
fn agrees(what: &str, words: &[u32], module: &Reflection) -> bool {
    use spirq::prelude::{AccessType, DescriptorType, ReflectConfig, Variable};
    let read = ReflectConfig::new()
        .spv(words.to_vec())
        .ref_all_rscs(true)
        .reflect();
    let Ok(entries) = read else { return false };
    let mut bindings = BTreeMap::new();
    let mut push = None;
    for variable in &entries[0].vars {
        match variable {
            Variable::Descriptor {
                desc_bind,
                desc_ty: DescriptorType::StorageBuffer(access),
                ..
            } => {
                let flags = (
                    *access != AccessType::WriteOnly,
                    *access != AccessType::ReadOnly,
                );
                bindings.insert((desc_bind.set(), desc_bind.bind()), flags);
            }
            Variable::PushConstant { ty, .. } => push = ty.nbyte().map(|bytes| bytes as u64),
            _ => {}
        }
    }
    let ours = module.bindings.iter();
    let ours: BTreeMap<_, _> = ours
        .map(|one| ((one.set, one.number), (one.reads, one.writes)))
        .collect();
    assert_eq!(ours, bindings, "{what}");
    assert_eq!(
        module.push.as_ref().map(|block| block.bytes),
        push,
        "{what}"
    );
    true
}

#[test]
fn every_module_is_valid_for_vulkan_1_3() {
    let version = Command::new("spirv-val").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: there is no `spirv-val`; it comes with the SPIR-V tools");
        return;
    }
    // Options that a shader does not mention make the same module.
    let mut seen = BTreeSet::new();
    for (_, instances) in all() {
        for Built { what, words, .. } in instances {
            if !seen.insert(words) {
                continue;
            }
            let mut validator = Command::new("spirv-val")
                .args(["--target-env", "vulkan1.3", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            validator.stdin.take().unwrap().write_all(&bytes).unwrap();
            let output = validator.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if said.contains("Invalid capability operand: 6022") {
                eprintln!("SKIPPED {what}: this `spirv-val` is older than cooperative matrices");
                continue;
            }
            assert!(output.status.success(), "{what}: {said}");
        }
    }
}

/// A kernel that copies, told in many ways. `{}` stands where a case puts its own text.
const COPY: &str = r#"Kernel(
    name: "copy", doc: "y = x", types: { "A": ["f32", "f16"] },
    ports: { "x": Read(of: "A", shape: ["n..."]), "y": Write(of: "A", shape: ["n..."]) },
    reference: ["y[i<n] = x[i]"],
    push: { "n": U32("n") },
    variants: [Variant(name: "plain", shader: "copy.comp", spec: { "WIDTH": Spec(default: "64", min: "1", max: "1024") },
        local_size: ["WIDTH", "1", "1"], dispatch: ["ceil(n / WIDTH)", "1", "1"])],
)"#;
const COPY_SHADER: &str = "#version 460
layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;
layout(binding = BIND_X) readonly buffer In0 { A x[]; };
layout(binding = BIND_Y) writeonly buffer Out { A y[]; };
layout(push_constant) uniform Push { uint n; };
void main() {
    uint i = gl_GlobalInvocationID.x;
    if (i < n) { y[i] = x[i]; }
}
";

fn copy(shader: &str) -> Result<Vec<(u32, graphc::kernel::Access)>, Diagnostic> {
    let sources = BTreeMap::from([
        ("shaders/copy.ron".to_string(), COPY.to_string()),
        ("shaders/copy.comp".to_string(), shader.to_string()),
    ]);
    let library = graphc::kernel::load(&sources, &mut SourceMap::default()).unwrap();
    let manifest = &library.manifests["copy"];
    let types = BTreeMap::from([("A".to_string(), DType::F32)]);
    let binding = binding(manifest, &types, &BTreeMap::new(), &BTreeSet::new(), 48).unwrap();
    let selected = select(manifest, &binding, &device(), None).unwrap();
    let request = BuildRequest {
        shader: &selected.shader,
        defines: &selected.defines,
    };
    let words = builder()
        .build(&flatten(request, &sources).unwrap())
        .unwrap();
    check(
        manifest,
        &selected,
        &[true, true],
        &reflect(&words, &selected.spec).unwrap(),
    )
}

#[test]
fn a_shader_that_lies_is_refused() {
    copy(COPY_SHADER).unwrap();
    let cases = [
        (
            "readonly buffer",
            "buffer",
            "port `x` (binding 0) is only read, but its buffer is not `readonly`",
        ),
        (
            "writeonly buffer",
            "buffer",
            "port `y` (binding 1) is only written, but its buffer is not `writeonly`",
        ),
        (
            "binding = BIND_Y",
            "binding = 7",
            "it uses storage buffer 7 of set 0, which is no bound port",
        ),
        (
            "binding = BIND_Y",
            "set = 1, binding = BIND_Y",
            "it uses storage buffer 1 of set 1",
        ),
        (
            "readonly buffer In0 { A x[]; }",
            "uniform In0 { float x[64]; }",
            "it uses resource 0 of set 0",
        ),
        (
            "y[i] = x[i]",
            "if (x[i] > 1e30) return",
            "it never writes port `y` (binding 1)",
        ),
        (
            "{ uint n; }",
            "{ uint n, m; }",
            "its push constants take 8 bytes, those of the manifest 4",
        ),
        (
            "{ uint n; }",
            "{ float n; }",
            "the push constant at byte 0 is F32, but `n` is U32",
        ),
        (
            "y[i] = x[i]",
            "y[i] = x[i] * float(EXTRA)",
            "its specialisation constant 3 is not in the manifest",
        ),
        (
            "local_size_x_id = 0",
            "local_size_x = 32",
            "its workgroup is [32, 1, 1], that of the manifest [64, 1, 1]",
        ),
        (
            "uint i =",
            "line[gl_LocalInvocationID.x] = 1.0; barrier(); uint i = uint(line[3]) + ",
            "it takes 256 bytes of shared memory",
        ),
        (
            "uint i =",
            "if (subgroupAdd(1.0) < 0.0) return; uint i =",
            "it declares GroupNonUniformArithmetic, but `needs` lacks `subgroup_arithmetic` or",
        ),
        (
            "uint i =",
            "if (subgroupBallot(true).x == 0) return; uint i =",
            "it declares GroupNonUniformBallot, but `needs` lacks `subgroup_broadcast`",
        ),
        (
            "uint i =",
            "if (subgroupAll(false)) return; uint i =",
            "it declares GroupNonUniformVote, which no feature of a manifest brings",
        ),
    ];
    for (from, to, message) in cases {
        assert!(COPY_SHADER.contains(from), "{from}");
        let mut shader = COPY_SHADER.replace(from, to);
        if to.contains("subgroup") {
            let head = "#version 460\n#extension GL_KHR_shader_subgroup_arithmetic : require\n#extension GL_KHR_shader_subgroup_ballot : require\n#extension GL_KHR_shader_subgroup_vote : require\n";
            shader = shader.replace("#version 460\n", head);
        }
        if to.contains("EXTRA") {
            let extra = "layout(constant_id = 3) const uint EXTRA = 1;\nvoid main";
            shader = shader.replace("void main", extra);
        }
        if to.contains("line[") {
            shader = shader.replace("void main", "shared float line[WIDTH];\nvoid main");
        }
        let error = copy(&shader).expect_err(to);
        assert_eq!(error.code.0, "G0423");
        assert!(error.message.contains(message), "{to}: {}", error.message);
    }
}

/// The repository with more texts.
struct With(BTreeMap<String, String>);

impl Sources for With {
    fn read(&self, path: &str) -> Result<String, SourceError> {
        let ours = self.0.get(path).cloned();
        ours.map_or_else(|| support::sources().read(path), Ok)
    }
    fn list(&self, path: &str) -> Result<Vec<String>, SourceError> {
        let mut listed = support::sources().list(path)?;
        let ours = self.0.keys().filter(|name| {
            name.strip_prefix(path)
                .is_some_and(|rest| !rest[1..].contains('/'))
                && name.ends_with(".ron")
        });
        listed.extend(ours.cloned());
        Ok(listed)
    }
}

fn compile(sources: &With, builder: Option<&dyn Builder>) -> Plan {
    let (device, request) = (support::profile(), [Request::default()]);
    let mut job = Job::new("case.ron", sources, &device, &request);
    job.builder = builder;
    let mut map = SourceMap::default();
    let compiled = graphc::compile::compile(&job, &mut map);
    compiled
        .unwrap_or_else(|errors| support::fail(&errors, &map))
        .plan
}

/// `max_len` sizes the grid of attention; its shader never looks at it.
#[test]
fn an_option_that_the_shader_ignores_makes_no_kernel() {
    let pass = |out: &str, set: &str| {
        format!(
            "Pass(kernel: \"attention\", in: {{ \"qkv\": \"qkv\", \"spans\": \"spans\" }}, out: {{ \"y\": \"{out}\" }},
                 set: {{ \"heads\": \"2\", \"kv_heads\": \"1\", \"head_dim\": \"32\", {set} }}),"
        )
    };
    let graph = format!(
        "Graph(name: \"case\", inputs: {{ \"qkv\": Tensor(\"f32\", [\"48\", \"128\"]), \"spans\": Tensor(\"u32\", [\"1\", \"2\"]) }},
            body: [{}{}{}], outputs: [\"a\", \"b\", \"c\"])",
        pass("a", "\"max_len\": \"16\""),
        pass("b", "\"max_len\": \"48\""),
        pass("c", "\"max_len\": \"48\", \"causal\": \"true\""),
    );
    let sources = With(BTreeMap::from([("case.ron".to_string(), graph)]));
    let plan = compile(&sources, Some(&builder()));
    assert_eq!(plan.kernels.len(), 2);
    assert_eq!(plan.entries[0].passes.len(), 3);
}

/// The example of `shaders/README.md` compiles and computes what it says.
#[test]
fn the_worked_example_runs() {
    let readme = support::sources().read("shaders/README.md").unwrap();
    let block = |language: &str| {
        let (_, rest) = readme.split_once(&format!("```{language}\n")).unwrap();
        rest.split_once("```").unwrap().0.to_string()
    };
    let graph = r#"Graph(
        name: "case", inputs: { "x": Tensor("f32", ["2", "3"]), "limit": Tensor("f32", ["3"]) },
        body: [
            Pass(kernel: "scale", in: { "x": "x", "limit": "limit" }, out: { "y": "a" }, set: { "factor": "2.0" }),
            Pass(kernel: "scale", in: { "x": "x" }, out: { "y": "b" }, set: { "factor": "-0.5" }),
        ],
        outputs: ["a", "b"],
    )"#;
    let sources = With(BTreeMap::from([
        ("shaders/scale.ron".to_string(), block("ron")),
        ("shaders/scale.comp".to_string(), block("glsl")),
        ("case.ron".to_string(), graph.to_string()),
    ]));
    let plan = compile(&sources, Some(&builder()));
    let x = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0];
    let inputs = BTreeMap::from([
        ("x".to_string(), encode(DType::F32, &x)),
        ("limit".to_string(), encode(DType::F32, &[1.0, 100.0, 7.0])),
    ]);
    let mut interpreter = Interpreter::new(&plan, |_| vec![]).unwrap();
    let got = interpreter.run(&plan.entries[0].name, 0, &inputs).unwrap();
    let decoded = |name: &str| decode(DType::F32, &got[name]).unwrap();
    let wanted = [
        ("a", [1.0, -4.0, 6.0, -1.0, 10.0, -7.0]),
        ("b", x.map(|v| -0.5 * v)),
    ];
    for (name, wanted) in wanted {
        assert_eq!(decoded(name), wanted);
    }
    #[cfg(feature = "gpu")]
    {
        // The plan above is for a device as data; this one is for the device that is here.
        let (device, request) = (support::gpu::profile(), [Request::default()]);
        let mut job = Job::new("case.ron", &sources, &device, &request);
        let plan = support::gpu::build(&mut job).unwrap();
        let mut session = support::gpu::OnDevice::open(&plan, |_| vec![]);
        let ticket = session.submit(0, &inputs);
        let got = session.wait(0, ticket);
        for (name, wanted) in wanted {
            assert_eq!(
                decode(DType::F32, &got[name]).unwrap(),
                wanted,
                "{name} on the device"
            );
        }
    }
}

#[test]
fn words_that_are_no_module_are_refused() {
    assert_eq!(reflect(&[], &[]), Err(ReflectError::NotSpirv));
    assert_eq!(reflect(&[1; 64], &[]), Err(ReflectError::NotSpirv));
    assert_eq!(
        reflect(&[0x0723_0203, 0x1_0600, 0, 9, 0], &[]),
        Err(ReflectError::EntryPoints(0))
    );
    assert!(matches!(
        reflect(&vec![0; (1 << 22) + 1], &[]),
        Err(ReflectError::TooLong(_))
    ));
}

/// Damaged modules give a reflection or an error, and soon.
#[test]
fn damaged_modules_do_no_harm() {
    let library = support::library();
    let mut random = support::random::Random::from_env("damaged_modules");
    let words = instances(&library.manifests["layer_norm"])
        .swap_remove(0)
        .words;
    let mut refused = 0;
    for _ in 0..4000 {
        let mut damaged = words.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(damaged.len() as u64) as usize;
            damaged[at] = match random.below(4) {
                0 => random.below(1 << 32) as u32,
                1 => random.below(600) as u32,
                2 => damaged[at] ^ 1 << random.below(32),
                _ => damaged[random.below(words.len() as u64) as usize],
            };
        }
        if random.below(8) == 0 {
            damaged.truncate(random.below(words.len() as u64) as usize);
        }
        refused += usize::from(reflect(&damaged, &[]).is_err());
    }
    assert!(refused > 400, "only {refused} were refused");
}
