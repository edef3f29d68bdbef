// Storage types. Buffers hold A (activations) and W (weights), f32 or f16; arithmetic is f32 throughout, so that
// only 16-bit storage is needed of a device, not 16-bit arithmetic.
#extension GL_EXT_control_flow_attributes : enable
#if defined(A_F16) && A_F16
#define ACTIVATIONS_16 1
#else
#define ACTIVATIONS_16 0
#endif
#if defined(W_F16) && W_F16
#define WEIGHTS_16 1
#else
#define WEIGHTS_16 0
#endif
#if ACTIVATIONS_16 || WEIGHTS_16
#extension GL_EXT_shader_16bit_storage : require
#endif
#if ACTIVATIONS_16
#define A4 f16vec4
#else
#define A4 vec4
#endif
#if WEIGHTS_16
#define W4 f16vec4
#else
#define W4 vec4
#endif

// The number of this workgroup when a long row of workgroups was folded into a grid.
uint workgroup_number() {
    return gl_WorkGroupID.x + gl_NumWorkGroups.x * (gl_WorkGroupID.y + gl_NumWorkGroups.y * gl_WorkGroupID.z);
}
