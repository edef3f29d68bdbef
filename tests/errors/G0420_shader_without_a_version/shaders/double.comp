// Twice the value; the line that should follow is gone.

layout(local_size_x = 64) in;
layout(set = 0, binding = BIND_X, std430) readonly buffer X { float x[]; };
layout(set = 0, binding = BIND_Y, std430) writeonly buffer Y { float y[]; };
layout(push_constant) uniform Push { uint n; };

void main() {
    uint i = gl_GlobalInvocationID.x;
    if (i < n) {
        y[i] = 2.0 * x[i];
    }
}
