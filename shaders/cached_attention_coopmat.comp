// `cached_attention` for f16 on matrix units: TILE_Q rows of one sequence and head a workgroup.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "include/storage.glsl"

layout(local_size_x = LOCAL_X) in;
#define Y_BY uvec4
#include "include/cached.glsl"

shared uint tile_start;
shared uint tile_end;

// Of this workgroup: the first row of its tile, that row's position among all, and the first vectors of that row and of the
// cache.
uint row0, first_position, q_at, kv_at;

uvec4 query(uint r, uint d8) {
    return row0 + r < rows ? q[q_at + r * (OPT_HEADS * D / 8) + d8] : uvec4(0);
}

// Zeros past the last place: weights there are zero, and zero times what is there must be zero too.
uvec4 key(uint j, uint d8) {
    return j < tile_end ? k_cache[kv_at + j * (D / 8) + d8] : uvec4(0);
}

uvec4 value(uint j, uint d8) {
    return j < tile_end ? v_cache[kv_at + j * (D / 8) + d8] : uvec4(0);
}

uvec2 sees(uint r) {
    return row0 + r < rows ? seen(positions[first_position + r]) : uvec2(0);
}

void result(uint r, uint d8, uvec4 v) {
    if (row0 + r < rows) {
        y[q_at + r * (OPT_HEADS * D / 8) + d8] = v;
    }
}

#include "include/flash.glsl"

void main() {
    uint head = gl_WorkGroupID.x;
    uint sequence = gl_WorkGroupID.z;
    // The last rows see most: their tiles start first.
    row0 = (gl_NumWorkGroups.y - 1 - gl_WorkGroupID.y) * TILE_Q;
    first_position = sequence * rows + row0;
    q_at = (first_position * OPT_HEADS + head) * (D / 8);
    kv_at = (slots[sequence] * OPT_KV_HEADS + head / (OPT_HEADS / OPT_KV_HEADS)) * ctx * (D / 8);

    if (gl_LocalInvocationIndex == 0) {
        tile_start = NONE;
        tile_end = 0;
    }
    barrier();
    if (gl_LocalInvocationIndex < TILE_Q) {
        uvec2 some = sees(gl_LocalInvocationIndex);
        if (some.x < some.y) {
            atomicMin(tile_start, some.x);
            atomicMax(tile_end, some.y);
        }
    }
    barrier();
    flash(tile_start / TILE_K * TILE_K, tile_end, scale);
}
