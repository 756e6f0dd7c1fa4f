/* One coupling layer after its conditioner: scale and shift of a line, or rotation of a circle, then a monotonic
   rational-quadratic spline (Durkan et al. 2019, arXiv 1906.04032, eq. 4 and 5; 6 to 8 for the inverse), its
   logarithm of the slope, and the derivatives of both.  Rows are coordinates, the batch is the last dimension.

   raw (2 + 3 bins, dim, n) plus bias (2 + 3 bins, dim): logarithm of the scale, shift, widths, heights, slopes at the
   inner knots, slope at the ends.  All is float with SINGLE, else double; with BFLOAT16 raw is bfloat16.  LANES points
   are worked on side by side. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef SINGLE
#define L (2 * LANES)
#else
#define L LANES
#endif
#define EACH _Pragma("GCC ivdep") for (int l = 0; l < L; l++)
#ifdef SINGLE
typedef float real;
#define F(name) name##f
#else
typedef double real;
#define F(name) name
#endif
#ifdef VECTOR_MATH
#define SIMD __attribute__((simd("notinbranch")))
SIMD extern real F(exp)(real);
SIMD extern real F(log)(real);
SIMD extern real F(log1p)(real);
SIMD extern real F(tanh)(real);
#endif
#define MAX_BINS 64
#define MIN_SHARE ((real)1e-3)
#define MIN_SLOPE ((real)1e-3)
#define PI ((real)3.14159265358979323846)
/* What is called for each coordinate is compiled once, not into each caller: a third of the time to compile. */
#define APART static __attribute__((noinline)) void
typedef int64_t integer;

#ifdef BFLOAT16 /* the upper half of a float */
typedef uint16_t stored;
static inline real read_stored(stored x) {
  const uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
static inline stored to_stored(real x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return x == x ? rounded : 0x7fc0;
}
#else
typedef real stored;
static inline real read_stored(stored x) { return x; }
static inline stored to_stored(real x) { return x; }
#endif

/* exp(x) of x <= 0, in line: a call for each of a softmax's terms would be half of the time.  After Cephes' expf. */
static inline real exp_below(real x) {
#ifdef SINGLE
  const float t = x < -87.0f ? -87.0f : x, n = rintf(t * 1.44269504f);
  const float r = (t - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = ((int32_t)n + 127) << 23;
  float power;
  memcpy(&power, &bits, sizeof power);
  return p * power;
#else
  return exp(x);
#endif
}

static inline real wrapped(real x) {
  const real y = x - 2 * PI * F(floor)((x + PI) / (2 * PI));
  return y >= PI ? -PI : y; /* rounding */
}

static inline real softplus(real x) { return (x > 0 ? x : 0) + F(log1p)(F(exp)(-F(fabs)(x))); }

static inline real logistic(real x) {
  const real e = F(exp)(-F(fabs)(x));
  return (x >= 0 ? 1 : e) / (1 + e);
}

/* exp(raw - max) of the bins into `share`, divided by their sum. */
APART softmax(const real* restrict raw, integer step, int bins, real* restrict share) {
  real top[L], sum[L];
  EACH
    top[l] = raw[l];
  for (int k = 1; k < bins; k++)
    EACH
      top[l] = raw[k * step + l] > top[l] ? raw[k * step + l] : top[l];
  EACH
    sum[l] = 0;
  for (int k = 0; k < bins; k++)
    EACH {
      const real e = exp_below(raw[k * step + l] - top[l]);
      share[k * L + l] = e;
      sum[l] += e;
    }
  EACH
    sum[l] = 1 / sum[l];
  for (int k = 0; k < bins; k++)
    EACH
      share[k * L + l] *= sum[l];
}

/* A coordinate's parameters of L points, or of fewer and copies of the first one. */
APART gather(const stored* restrict raw, const real* restrict bias, integer step, integer dim, integer rows,
             integer here, real* restrict own) {
  for (integer k = 0; k < rows; k++) {
    const stored* restrict row = raw + k * step;
    const real b = bias[k * dim];
    if (here == L)
      EACH
        own[k * L + l] = read_stored(row[l]) + b;
    else
      for (int l = 0; l < L; l++) own[k * L + l] = read_stored(row[l < here ? l : 0]) + b;
  }
}

/* The bin of `position`, by its left or, for the inverse, its lower edge. */
APART find(const real* restrict p, const real* restrict q, const real* restrict raw, integer step, int bins,
           int circular, int inverse, const real* restrict position, real* restrict x0, real* restrict width,
           real* restrict y0, real* restrict height, real* restrict d0, real* restrict d1, int32_t* restrict bin) {
  const real scale = 1 - MIN_SHARE * bins, unit = (real)0.539742417236952; /* softplus(unit) = 1 - MIN_SLOPE */
  const real *inner = raw + 2 * bins * step, *end = raw + (3 * bins - 1) * step;
  real left[L], low[L];
  EACH {
    left[l] = 0;
    low[l] = 0;
    bin[l] = 0;
  }
  for (int k = 0; k < bins; k++) {
    const real *first = k ? inner + (k - 1) * step : end, *second = k < bins - 1 ? inner + k * step : end;
    const int first_end = !k && !circular, second_end = k == bins - 1 && !circular;
    EACH {
      const real w = MIN_SHARE + scale * p[k * L + l], h = MIN_SHARE + scale * q[k * L + l];
      const int here = !k || position[l] >= (inverse ? low[l] : left[l]);
      x0[l] = here ? left[l] : x0[l];
      width[l] = here ? w : width[l];
      y0[l] = here ? low[l] : y0[l];
      height[l] = here ? h : height[l];
      d0[l] = here ? (first_end ? 0 : first[l]) : d0[l];
      d1[l] = here ? (second_end ? 0 : second[l]) : d1[l];
      bin[l] = here ? k : bin[l];
      left[l] += w;
      low[l] += h;
    }
  }
  EACH {
    d0[l] += unit;
    d1[l] += unit;
  }
}

static inline __attribute__((always_inline)) void couple_way(const real* x, const stored* raw, const real* bias,
                                                             const real* bound, const uint8_t* circle, integer dim,
                                                             integer n, integer bins, const int inverse,
                                                             real max_log_scale, real* y, real* log_det, integer from,
                                                             integer to) {
  const integer step = dim * n;
  for (integer start = from; start < to; start += L) {
    const integer here = to - start < L ? to - start : L;
    real total[L], own[(3 * MAX_BINS + 2) * L];
    EACH
      total[l] = 0;
    for (integer d = 0; d < dim; d++) {
      const int circular = circle[d];
      const real b = circular ? PI : bound[d];
      real p[MAX_BINS * L], q[MAX_BINS * L], at[L], u[L], x0[L], width[L], y0[L], height[L], d0[L], d1[L], out[L],
          change[L], scale[L];
      int32_t bin[L];
      gather(raw + d * n + start, bias + d, step, dim, 3 * bins + 2, here, own);
      for (int l = 0; l < L; l++) at[l] = x[d * n + start + (l < here ? l : 0)];
      EACH
        scale[l] = circular ? 0 : max_log_scale * F(tanh)(own[l] / max_log_scale);
      if (!inverse) {
        EACH
          at[l] = at[l] * F(exp)(scale[l]) + own[L + l];
        if (circular)
          EACH
            at[l] = wrapped(at[l]);
      }
      EACH {
        const int inside = circular || F(fabs)(at[l]) < b;
        u[l] = inside ? at[l] / (2 * b) + (real)0.5 : (real)0.5;
      }
      softmax(own + 2 * L, L, bins, p);
      softmax(own + (2 + bins) * L, L, bins, q);
      find(p, q, own + 2 * L, L, bins, circular, inverse, u, x0, width, y0, height, d0, d1, bin);
      EACH {
        const real e0 = MIN_SLOPE + softplus(d0[l]), e1 = MIN_SLOPE + softplus(d1[l]);
        const real slope = height[l] / width[l], bend = e0 + e1 - 2 * slope;
        real t;
        if (inverse) {
          const real rise = u[l] - y0[l], A = height[l] * (slope - e0) + rise * bend, B = height[l] * e0 - rise * bend,
                     C = -slope * rise;
          const real under = B * B - 4 * A * C;
          t = 2 * C / (-B - F(sqrt)(under > 0 ? under : 0));
        } else
          t = (u[l] - x0[l]) / width[l];
        const real s = t * (1 - t), below = slope + bend * s;
        const real value = inverse ? x0[l] + t * width[l] : y0[l] + height[l] * (slope * t * t + e0 * s) / below;
        const real growth = e1 * t * t + 2 * slope * s + e0 * (1 - t) * (1 - t);
        const real ratio = slope / below, change_ = F(log)(ratio * ratio * growth);
        const int inside = circular || F(fabs)(at[l]) < b;
        out[l] = inside ? (2 * value - 1) * b : at[l];
        change[l] = inside ? (inverse ? -change_ : change_) : 0;
      }
      if (inverse) {
        EACH {
          out[l] = (out[l] - own[L + l]) * F(exp)(-scale[l]);
          change[l] -= scale[l];
        }
        if (circular)
          EACH
            out[l] = wrapped(out[l]);
      } else
        EACH
          change[l] += scale[l];
      EACH
        total[l] += change[l];
      for (int l = 0; l < here; l++) y[d * n + start + l] = out[l];
    }
    for (int l = 0; l < here; l++) log_det[start + l] = total[l];
  }
}

/* Points from `from` to `to` of n.  Each way is compiled on its own. */
void couple(const real* x, const stored* raw, const real* bias, const real* bound, const uint8_t* circle, integer dim,
            integer n, integer bins, integer inverse, real max_log_scale, real* y, real* log_det, integer from,
            integer to) {
  if (inverse)
    couple_way(x, raw, bias, bound, circle, dim, n, bins, 1, max_log_scale, y, log_det, from, to);
  else
    couple_way(x, raw, bias, bound, circle, dim, n, bins, 0, max_log_scale, y, log_det, from, to);
}

/* Derivatives of the map data -> base, at x: of sum(up * y) + sum(up_det * log_det), by x and by raw.  With `inverse`,
   x is what the inverse gave and up, up_det are what comes from above of it: the derivatives of the inverse by its
   argument (in place of those by x) and by raw, which follow from those of the map. */
static inline __attribute__((always_inline)) void back_way(const real* x, const stored* raw, const real* bias,
                                                           const real* bound, const uint8_t* circle, integer dim,
                                                           integer n, integer bins, const int inverse,
                                                           real max_log_scale, const real* up, const real* up_det,
                                                           real* grad_x, stored* grad_raw, real* grad_bias,
                                                           integer from, integer end_of_range) {
  const integer step = dim * n;
  for (integer start = from; start < end_of_range; start += L) {
    const integer here = end_of_range - start < L ? end_of_range - start : L;
    real own[(3 * MAX_BINS + 2) * L], to[(3 * MAX_BINS + 2) * L];
    for (integer d = 0; d < dim; d++) {
      const int circular = circle[d];
      const real b = circular ? PI : bound[d];
      real p[MAX_BINS * L], q[MAX_BINS * L], first[L], at[L], u[L], x0[L], width[L], y0[L], height[L], d0[L], d1[L],
          scale[L], thin[L];
      real g_x0[L], g_w[L], g_y0[L], g_h[L], g_d0[L], g_d1[L], back[L], g_at[L], seed[L], det[L];
      int32_t bin[L];
      gather(raw + d * n + start, bias + d, step, dim, 3 * bins + 2, here, own);
      for (int l = 0; l < L; l++) {
        const integer k = start + (l < here ? l : 0);
        first[l] = x[d * n + k];
        seed[l] = up[d * n + k];
        det[l] = up_det[k];
      }
      EACH {
        const real th = F(tanh)(own[l] / max_log_scale);
        scale[l] = circular ? 0 : max_log_scale * th;
        thin[l] = circular ? 0 : 1 - th * th;
        at[l] = first[l] * F(exp)(scale[l]) + own[L + l];
      }
      if (circular)
        EACH
          at[l] = wrapped(at[l]);
      EACH {
        const int inside = circular || F(fabs)(at[l]) < b;
        u[l] = inside ? at[l] / (2 * b) + (real)0.5 : (real)0.5;
      }
      softmax(own + 2 * L, L, bins, p);
      softmax(own + (2 + bins) * L, L, bins, q);
      find(p, q, own + 2 * L, L, bins, circular, 0, u, x0, width, y0, height, d0, d1, bin);
      EACH {
        const int inside = circular || F(fabs)(at[l]) < b;
        const real e0 = MIN_SLOPE + softplus(d0[l]), e1 = MIN_SLOPE + softplus(d1[l]);
        const real inv = 1 / width[l], slope = height[l] * inv, bend = e0 + e1 - 2 * slope;
        const real t = (u[l] - x0[l]) * inv, r = 1 - t, s = t * r;
        const real below = slope + bend * s, over = slope * t * t + e0 * s,
                   growth = e1 * t * t + 2 * slope * s + e0 * r * r;
        const real ib = 1 / below, ig = 1 / growth, rate = slope * slope * growth * ib * ib; /* d value / d u */
        /* d log rate / dt */
        const real below_t = bend * (1 - 2 * t), growth_t = 2 * e1 * t + 2 * slope * (1 - 2 * t) - 2 * e0 * r;
        const real det_t = growth_t * ig - 2 * below_t * ib;
        real value_up, det_up, g_in;
        if (inverse) {
          /* of y = f^-1(a), -log f'(y): by a it is (up - up_det d log f'/dy) / f'; by the parameters as below, of -that
           * and -up_det. */
          const real fast = inside ? rate * F(exp)(scale[l]) : F(exp)(scale[l]);
          const real det_y = inside ? det_t * inv / (2 * b) * F(exp)(scale[l]) : 0;
          g_in = (seed[l] - det[l] * det_y) / fast;
          value_up = -g_in;
          det_up = -det[l];
        } else {
          value_up = seed[l];
          det_up = det[l];
          g_in = 0;
        }
        back[l] = g_in;
        /* y = (2 value - 1) b */
        const real a = inside ? 2 * b * value_up : 0, c = inside ? det_up : 0;
        /* value = y0 + height over / below */
        const real g_over = a * height[l] * ib, g_below = -a * height[l] * over * ib * ib - 2 * c * ib,
                   g_growth = c * ig;
        const real g_height = a * over * ib;
        real g_slope = 2 * c / slope + g_over * t * t + g_below + g_growth * 2 * s;
        const real g_bend = g_below * s;
        real g_e0 = g_over * s + g_growth * r * r + g_bend, g_e1 = g_growth * t * t + g_bend;
        g_slope -= 2 * g_bend;
        const real g_s = g_over * e0 + g_below * bend + g_growth * 2 * slope;
        const real g_t = g_over * 2 * slope * t + g_growth * 2 * (e1 * t - e0 * r) + g_s * (1 - 2 * t);
        g_h[l] = g_height + g_slope * inv;
        g_w[l] = -g_slope * slope * inv - g_t * t * inv;
        g_x0[l] = -g_t * inv;
        g_y0[l] = a;
        g_d0[l] = g_e0 * logistic(d0[l]);
        g_d1[l] = g_e1 * logistic(d1[l]);
        g_at[l] = inside ? g_t * inv / (2 * b) : value_up;
        const real stretch = F(exp)(scale[l]), g_scale = g_at[l] * first[l] * stretch + det_up;
        to[l] = g_scale * thin[l];
        to[L + l] = g_at[l];
        g_at[l] = inverse ? back[l] : g_at[l] * stretch;
      }
      {
        const real share = 1 - MIN_SHARE * bins;
        real sp[L], sq[L];
        real *wide = to + 2 * L, *high = to + (2 + bins) * L, *inner = to + (2 + 2 * bins) * L,
             *end = to + (1 + 3 * bins) * L;
        EACH {
          sp[l] = 0;
          sq[l] = 0;
        }
        for (int k = 0; k < bins; k++)
          EACH {
            const real gp = p[k * L + l] * (bin[l] == k ? g_w[l] : (k < bin[l] ? g_x0[l] : 0)),
                       gq = q[k * L + l] * (bin[l] == k ? g_h[l] : (k < bin[l] ? g_y0[l] : 0));
            sp[l] += gp;
            sq[l] += gq;
            wide[k * L + l] = gp;
            high[k * L + l] = gq;
          }
        for (int k = 0; k < bins; k++)
          EACH {
            wide[k * L + l] = share * (wide[k * L + l] - p[k * L + l] * sp[l]);
            high[k * L + l] = share * (high[k * L + l] - q[k * L + l] * sq[l]);
          }
        for (int k = 0; k < bins - 1; k++)
          EACH
            inner[k * L + l] = (bin[l] == k ? g_d1[l] : 0) + (bin[l] == k + 1 ? g_d0[l] : 0);
        EACH
          end[l] = circular ? (bin[l] == 0 ? g_d0[l] : 0) + (bin[l] == bins - 1 ? g_d1[l] : 0) : 0;
      }
      for (int l = 0; l < here; l++) grad_x[d * n + start + l] = g_at[l];
      for (integer k = 0; k < 3 * bins + 2; k++) {
        stored* restrict row = grad_raw + k * step + d * n + start;
        real sum = 0;
        for (int l = 0; l < here; l++) sum += to[k * L + l];
        grad_bias[k * dim + d] += sum;
        if (here == L)
          EACH
            row[l] = to_stored(to[k * L + l]);
        else
          for (int l = 0; l < here; l++) row[l] = to_stored(to[k * L + l]);
      }
    }
  }
}

void couple_back(const real* x, const stored* raw, const real* bias, const real* bound, const uint8_t* circle,
                 integer dim, integer n, integer bins, integer inverse, real max_log_scale, const real* up,
                 const real* up_det, real* grad_x, stored* grad_raw, real* grad_bias, integer from,
                 integer end_of_range) {
  if (inverse)
    back_way(x, raw, bias, bound, circle, dim, n, bins, 1, max_log_scale, up, up_det, grad_x, grad_raw, grad_bias, from,
             end_of_range);
  else
    back_way(x, raw, bias, bound, circle, dim, n, bins, 0, max_log_scale, up, up_det, grad_x, grad_raw, grad_bias, from,
             end_of_range);
}
