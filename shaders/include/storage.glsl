// Storage types. Buffers hold activations and weights as f32 or f16; arithmetic is f32 throughout, so that only 16-bit
// storage is needed of a device, not 16-bit arithmetic, and that only by modules with such a buffer.
#extension GL_EXT_control_flow_attributes : enable
#extension GL_EXT_shader_16bit_storage : require
#if defined(A_F16) && A_F16
#define A4 f16vec4
#else
#define A4 vec4
#endif

// The number of this workgroup when a long row of workgroups was folded into a grid.
uint workgroup_number() {
    return gl_WorkGroupID.x + gl_NumWorkGroups.x * (gl_WorkGroupID.y + gl_NumWorkGroups.y * gl_WorkGroupID.z);
}
