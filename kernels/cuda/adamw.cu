// AdamW (Loshchilov and Hutter, 2019) on many parameters, in place and in one pass over the four arrays of each.
//
//     g = grad_scale * grad
//     m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g^2
//     param = param (1 - lr weight_decay) - lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps)
//
// The host, in float64, works out what is the same for all elements:
//     decay = 1 - lr weight_decay,   rate = lr / (1 - beta1^step),   v_scale = 1 / sqrt(1 - beta2^step)

#define BLOCK_VALUES 4096
#include "tensors.cuh"

struct Settings {
    float decay, rate, v_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
};

__device__ inline void update(float *param, const float *grad, float *m, float *v, const Span &span, float grad_scale,
                              const Settings &s)
{
    for (long long i = span.begin + threadIdx.x; i < span.end; i += blockDim.x) {
        float g = grad_scale * grad[i];
        float first = s.beta1 * m[i] + s.one_minus_beta1 * g;
        float second = s.beta2 * v[i] + s.one_minus_beta2 * g * g;
        m[i] = first;
        v[i] = second;
        param[i] = s.decay * param[i] - s.rate * first / (sqrtf(second) * s.v_scale + s.eps);
    }
}

extern "C" __global__ void __launch_bounds__(256)
adamw_update(float *const *params, const float *const *grads, float *const *ms, float *const *vs,
             const long long *__restrict__ sizes, const int *__restrict__ first_blocks, int tensors, float grad_scale,
             float decay, float rate, float v_scale, float beta1, float one_minus_beta1, float beta2,
             float one_minus_beta2, float eps)
{
    Settings s = {decay, rate, v_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, eps};
    Span span = this_span(sizes, first_blocks, tensors);
    int t = span.tensor;
    update(params[t], grads[t], ms[t], vs[t], span, grad_scale, s);
}

// The same with grad_scale in device memory: clipping then does not synchronize the device.
extern "C" __global__ void __launch_bounds__(256)
adamw_update_scaled_on_device(float *const *params, const float *const *grads, float *const *ms, float *const *vs,
                              const long long *__restrict__ sizes, const int *__restrict__ first_blocks, int tensors,
                              const float *__restrict__ grad_scale, float decay, float rate, float v_scale,
                              float beta1, float one_minus_beta1, float beta2, float one_minus_beta2, float eps)
{
    Settings s = {decay, rate, v_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, eps};
    Span span = this_span(sizes, first_blocks, tensors);
    int t = span.tensor;
    update(params[t], grads[t], ms[t], vs[t], span, grad_scale[0], s);
}
