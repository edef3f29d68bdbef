// There are no fragments, so none of their elements is elsewhere.
#version 460

layout(local_size_x = 32) in;

layout(binding = BIND_Y) writeonly buffer Out { float y[]; };

void main() {
    y[gl_LocalInvocationID.x] = 0.0;
}
