// Sum over a workgroup of WIDTH invocations; every invocation gets it. All of them must call it.
shared float partial_sums[WIDTH];

float workgroup_sum(float value) {
    uint t = gl_LocalInvocationID.x;
    barrier();
    partial_sums[t] = value;
    barrier();
    for (uint live = WIDTH; live > 1;) {
        uint half_up = (live + 1) / 2;
        if (t + half_up < live) {
            partial_sums[t] += partial_sums[t + half_up];
        }
        barrier();
        live = half_up;
    }
    return partial_sums[0];
}
