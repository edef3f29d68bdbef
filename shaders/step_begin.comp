// Where the step of each sequence starts, one an invocation at a time; one workgroup, which so knows whether any is
// alive.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(local_size_x = LOCAL_X) in;

layout(binding = BIND_IDS) readonly buffer In0 { uint ids[]; };
layout(binding = BIND_POSITIONS) readonly buffer In1 { uint positions[]; };
layout(binding = BIND_FLOW) readonly buffer In2 { uvec2 flow[]; };
layout(binding = BIND_SLOTS) readonly buffer In3 { uint slots[]; };
// (last token, next position, done, step) of each slot.
layout(binding = BIND_PROGRESS) readonly buffer In4 { uvec4 progress[]; };
layout(binding = BIND_NEXT_IDS) writeonly buffer Out0 { uint next_ids[]; };
layout(binding = BIND_NEXT_POSITIONS) writeonly buffer Out1 { uint next_positions[]; };
layout(push_constant) uniform Push { uint b; };
#if HAS_ALIVE
layout(binding = BIND_ALIVE) writeonly buffer State { uint alive[]; };
#endif

const uint NONE = 0xffffffffu;
shared uint any;

void main() {
    uint t = gl_LocalInvocationID.x;
    if (t == 0) {
        any = 0;
    }
    barrier();
    for (uint i = t; i < b; i += LOCAL_X) {
        uvec2 limits = flow[i];
        uint first_position = positions[i];
        uint first_id = ids[i];
        uvec4 before = progress[slots[i]];
        bool fresh = before.w == 0 && limits.x == 1;
        uint position = fresh ? first_position : before.y;
        bool dead = !fresh && before.z == 1 || position >= limits.y;
        next_ids[i] = dead ? 0 : fresh ? first_id : before.x;
        next_positions[i] = dead ? NONE : position;
        if (!dead) {
            any = 1;
        }
    }
#if HAS_ALIVE
    barrier();
    if (t == 0) {
        alive[0] = any;
    }
#endif
}
