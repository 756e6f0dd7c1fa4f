/* Positions of a Z-matrix's atoms, and derivatives.  LANES structures are worked on side by side. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#define L LANES
#define EACH _Pragma("GCC ivdep") for (int l = 0; l < L; l++)
#ifdef VECTOR_MATH
#define SIMD __attribute__((simd("notinbranch")))
SIMD extern double exp(double);
SIMD extern double log(double);
SIMD extern double sin(double);
SIMD extern double cos(double);
#endif
typedef int64_t integer;

static inline void load(const double* restrict q, integer n, integer start, integer here, double* restrict to) {
  for (int l = 0; l < L; l++) to[l] = q[start + (l < here ? l : 0)];
}

/* rows (n_atoms, 4): the atom, and those that its length, angle and torsion refer to, in the order of placement; closes
   (n_atoms): the second number of a row is ln of a length to the atom of the angle.  q (3 n_atoms - 6, n): ln of
   lengths, angles, torsions.  x (n, n_atoms, 3); volume (n,): log |dx / dq|, -inf where there is no such structure. */
void place(const integer* rows, const uint8_t* closes, integer n_atoms, integer second_on_first, const double* q,
           integer n, double* work, double* x, double* volume, integer from, integer to) {
  const double *log_r = q, *bend = q + (n_atoms - 1) * n, *phi = bend + (n_atoms > 2 ? n_atoms - 2 : 0) * n;
  for (integer start = from; start < to; start += L) {
    const integer here = to - start < L ? to - start : L;
    double V[L], good[L], a[L], b[L], f[L];
    EACH {
      V[l] = 0;
      good[l] = 1;
    }
    memset(work, 0, sizeof(double) * 3 * L * n_atoms);
    for (integer k = 1; k < n_atoms; k++) {
      const integer* row = rows + 4 * k;
      double* restrict X = work + 3 * L * row[0];
      load(log_r + (k - 1) * n, n, start, here, a);
      EACH
        V[l] += 3 * a[l];
      if (k == 1) {
        EACH
          X[l] = exp(a[l]);
        continue;
      }
      const int ring = closes[k];
      load(bend + (k - 2) * n, n, start, here, b);
      if (ring)
        EACH
          V[l] += 2 * b[l] - a[l];
      else
        EACH {
          V[l] += log(fabs(sin(b[l])));
          good[l] = b[l] > 0 && b[l] < 3.14159265358979323846 ? good[l] : 0;
        }
      if (k == 2) {
        const double* restrict first = work + 3 * L * rows[4];
        EACH {
          const double r = exp(a[l]), along = r * cos(b[l]);
          X[l] = second_on_first ? first[l] - along : along;
          X[L + l] = r * sin(b[l]);
        }
        continue;
      }
      load(phi + (k - 3) * n, n, start, here, f);
      const double* restrict O = work + 3 * L * row[1], * restrict H = work + 3 * L * row[2], * restrict S = work + 3 * L * row[3];
      EACH {
        const double r = exp(a[l]);
        const double bx = O[l] - H[l], by = O[L + l] - H[L + l], bz = O[2 * L + l] - H[2 * L + l];
        const double d2 = bx * bx + by * by + bz * bz, id = 1 / sqrt(d2);
        double c, s;
        if (ring) {
          const double second = exp(b[l]);
          const double cosine = (r * r + d2 - second * second) * 0.5 * id / r;
          const int reaches = fabs(cosine) < 1;
          c = reaches ? cosine : 0;
          s = sqrt(1 - c * c);
          good[l] = reaches ? good[l] : 0;
          V[l] -= 0.5 * log(d2);
        } else {
          c = cos(b[l]);
          s = sin(b[l]);
        }
        const double ax = bx * id, ay = by * id, az = bz * id;
        const double hx = H[l] - S[l], hy = H[L + l] - S[L + l], hz = H[2 * L + l] - S[2 * L + l];
        double nx = hy * az - hz * ay, ny = hz * ax - hx * az, nz = hx * ay - hy * ax;
        const double in = 1 / sqrt(nx * nx + ny * ny + nz * nz);
        nx *= in;
        ny *= in;
        nz *= in;
        const double mx = ny * az - nz * ay, my = nz * ax - nx * az, mz = nx * ay - ny * ax;
        const double along = r * c, u = r * s * cos(f[l]), v = r * s * sin(f[l]);
        X[l] = O[l] - ax * along + mx * u + nx * v;
        X[L + l] = O[L + l] - ay * along + my * u + ny * v;
        X[2 * L + l] = O[2 * L + l] - az * along + mz * u + nz * v;
      }
    }
    for (int l = 0; l < here; l++) {
      double* own = x + (start + l) * 3 * n_atoms;
      for (integer k = 0; k < 3 * n_atoms; k++) own[k] = work[k * L + l];
      volume[start + l] = good[l] > 0 ? V[l] : -INFINITY;
    }
  }
}

/* Derivatives (3 n_atoms - 6, n) of sum(up x) + sum(up_volume volume) by q; x as `place` gave it. */
void place_back(const integer* rows, const uint8_t* closes, integer n_atoms, integer second_on_first, const double* q,
                integer n, double* work, const double* x, const double* up, const double* up_volume, double* grad,
                integer from, integer to) {
  const integer angles = n_atoms > 2 ? n_atoms - 2 : 0;
  const double *log_r = q, *bend = q + (n_atoms - 1) * n, *phi = bend + angles * n;
  double *to_r = grad, *to_bend = grad + (n_atoms - 1) * n, *to_phi = to_bend + angles * n;
  double* A = work + 3 * L * n_atoms;
  for (integer start = from; start < to; start += L) {
    const integer here = to - start < L ? to - start : L;
    double a[L], b[L], f[L], gv[L], gr[L], gb[L], gf[L];
    for (int l = 0; l < L; l++) {
      const integer k = start + (l < here ? l : 0);
      const double *at = x + k * 3 * n_atoms, *above = up + k * 3 * n_atoms;
      for (integer m = 0; m < 3 * n_atoms; m++) {
        work[m * L + l] = at[m];
        A[m * L + l] = above[m];
      }
      gv[l] = up_volume[k];
    }
    for (integer k = n_atoms - 1; k >= 1; k--) {
      const integer* row = rows + 4 * k;
      const double* restrict g = A + 3 * L * row[0];
      load(log_r + (k - 1) * n, n, start, here, a);
      if (k == 1) {
        EACH
          gr[l] = g[l] * exp(a[l]) + 3 * gv[l];
      } else {
        const int ring = closes[k];
        load(bend + (k - 2) * n, n, start, here, b);
        if (k == 2) {
          double* restrict first = A + 3 * L * rows[4];
          const double sign = second_on_first ? -1 : 1;
          EACH {
            const double r = exp(a[l]), c = cos(b[l]), s = sin(b[l]);
            gr[l] = r * (sign * c * g[l] + s * g[L + l]) + 3 * gv[l];
            gb[l] = r * (-sign * s * g[l] + c * g[L + l]) + gv[l] * c / s;
            first[l] += second_on_first ? g[l] : 0;
          }
        } else {
          load(phi + (k - 3) * n, n, start, here, f);
          const double* restrict O = work + 3 * L * row[1], * restrict H = work + 3 * L * row[2], * restrict S = work + 3 * L * row[3];
          double* restrict AO = A + 3 * L * row[1], * restrict AH = A + 3 * L * row[2], * restrict AS = A + 3 * L * row[3];
          EACH {
            const double r = exp(a[l]);
            const double bx = O[l] - H[l], by = O[L + l] - H[L + l], bz = O[2 * L + l] - H[2 * L + l];
            const double d2 = bx * bx + by * by + bz * bz, d = sqrt(d2), id = 1 / d;
            double c, s, second = 0;
            if (ring) {
              second = exp(b[l]);
              const double cosine = (r * r + d2 - second * second) * 0.5 * id / r;
              c = fabs(cosine) < 1 ? cosine : 0;
              s = sqrt(1 - c * c);
            } else {
              c = cos(b[l]);
              s = sin(b[l]);
            }
            const double ax = bx * id, ay = by * id, az = bz * id;
            const double hx = H[l] - S[l], hy = H[L + l] - S[L + l], hz = H[2 * L + l] - S[2 * L + l];
            double nx = hy * az - hz * ay, ny = hz * ax - hx * az, nz = hx * ay - hy * ax;
            const double in = 1 / sqrt(nx * nx + ny * ny + nz * nz);
            nx *= in;
            ny *= in;
            nz *= in;
            const double mx = ny * az - nz * ay, my = nz * ax - nx * az, mz = nx * ay - ny * ax;
            const double cf = cos(f[l]), sf = sin(f[l]), u = r * s * cf, v = r * s * sf, gx = g[l], gy = g[L + l],
                         gz = g[2 * L + l];
            const double ga = gx * ax + gy * ay + gz * az, gm = gx * mx + gy * my + gz * mz,
                         gn = gx * nx + gy * ny + gz * nz;
            double g_r = -c * ga + s * (cf * gm + sf * gn), g_c = -r * ga;
            const double g_s = r * (cf * gm + sf * gn);
            gf[l] = r * s * (cf * gn - sf * gm);
            double px = -r * c * gx + u * (gy * nz - gz * ny), py = -r * c * gy + u * (gz * nx - gx * nz),
                   pz = -r * c * gz + u * (gx * ny - gy * nx);
            double qx = u * (ay * gz - az * gy) + v * gx, qy = u * (az * gx - ax * gz) + v * gy,
                   qz = u * (ax * gy - ay * gx) + v * gz;
            const double qn = qx * nx + qy * ny + qz * nz;
            qx = (qx - nx * qn) * in;
            qy = (qy - ny * qn) * in;
            qz = (qz - nz * qn) * in;
            const double sx = ay * qz - az * qy, sy = az * qx - ax * qz, sz = ax * qy - ay * qx;
            px += qy * hz - qz * hy;
            py += qz * hx - qx * hz;
            pz += qx * hy - qy * hx;
            const double pa = px * ax + py * ay + pz * az;
            double kx = (px - ax * pa) * id, ky = (py - ay * pa) * id, kz = (pz - az * pa) * id;
            if (ring) {
              g_c -= g_s * c / s;
              g_r += g_c * (id - c / r);
              gb[l] = -g_c * second * second * id / r + 2 * gv[l];
              const double g_d = g_c * (1 / r - c * id) - gv[l] * id;
              kx += g_d * ax;
              ky += g_d * ay;
              kz += g_d * az;
              gr[l] = g_r * r + 2 * gv[l];
            } else {
              gb[l] = g_s * c - g_c * s + gv[l] * c / s;
              gr[l] = g_r * r + 3 * gv[l];
            }
            AO[l] += gx + kx;
            AO[L + l] += gy + ky;
            AO[2 * L + l] += gz + kz;
            AH[l] += sx - kx;
            AH[L + l] += sy - ky;
            AH[2 * L + l] += sz - kz;
            AS[l] -= sx;
            AS[L + l] -= sy;
            AS[2 * L + l] -= sz;
          }
          for (int l = 0; l < here; l++) to_phi[(k - 3) * n + start + l] = gf[l];
        }
        for (int l = 0; l < here; l++) to_bend[(k - 2) * n + start + l] = gb[l];
      }
      for (int l = 0; l < here; l++) to_r[(k - 1) * n + start + l] = gr[l];
    }
  }
}
