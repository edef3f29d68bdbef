// One sequence an invocation: where its step starts.
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

const uint NONE = 0xffffffffu;

void main() {
    uint i = workgroup_number() * LOCAL_X + gl_LocalInvocationID.x;
    if (i >= b) {
        return;
    }
    uvec4 before = progress[slots[i]];
    bool fresh = before.w == 0 && flow[i].x == 1;
    uint position = fresh ? positions[i] : before.y;
    bool dead = !fresh && before.z == 1 || position >= flow[i].y;
    next_ids[i] = dead ? 0 : fresh ? ids[i] : before.x;
    next_positions[i] = dead ? NONE : position;
}
