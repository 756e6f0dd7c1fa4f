"""Words of reports, and what they mean; docs/glossary.md has the same."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "acceptance": "share of HMC trajectories accepted by Metropolis' rule; step sizes are adapted to 0.65",
    "agree, at the edge, disagree": (
        "verdicts by the size of z: below 2, from 2 to 3, 3 and above; without usable weights on both sides there "
        "are none"
    ),
    "AIS, annealed": (
        "annealed importance sampling: chains from the flow through intermediate densities towards p²/q; annealed "
        "structures are the ends of such chains"
    ),
    "alpha, α": (
        "order of the divergence that training minimises; 2 for FAB. A path with α = 1 ends at the Boltzmann "
        "distribution"
    ),
    "audit, due": (
        "minima of the energy that hot walkers reach in Cartesian space, looked up in the ensemble. Due: share of "
        "the weight that a minimum's energy and Hessian ask for"
    ),
    "barrier": (
        "energy, in kT, that the minimum kept would have to cross to reach the other side; below the limit "
        "CoordinateSettings.barrier a bond turns"
    ),
    "basin": (
        "a region of the torsions (of a Ramachandran plot, or a well of one torsion) or an isomer, pucker or "
        "nitrogen side; ΔF is its free energy against all the rest"
    ),
    "basin missing, rest missing": (
        "verdict: fewer than 10 effective samples, and less than half of the other side's share, by which 20 or "
        "more are due"
    ),
    "bins unvisited": "bins in which the reference has F below 5 kT and the ensemble no frame",
    "block": (
        "frames that depend on each other (of one walker, or of one stretch of time); errors come from blocks, not "
        "frames"
    ),
    "bootstrap": "errors from repeated resampling of frames or blocks",
    "buffer": "replay buffer: recent annealed and plain samples with their weights, which gradient steps draw from",
    "chirality": "handedness of a stereocentre; coordinates keep that of the given structure",
    "clipped (ESS)": (
        "with the largest 0.01 % of the weights set to the largest below them; never smaller than the raw value, "
        "and always shown beside it"
    ),
    "conformer": "a combination of wells of the torsions, ring puckers and nitrogen sides that are slow",
    "covered, rare, excluded, missing": (
        "verdicts of an audit: there are frames; there are none and few are due; the coordinates keep another side "
        "by choice; 20 effective samples or more are due and next to none are there. With fewer than 100 effective "
        "samples there is no verdict on what is missing"
    ),
    "eff. inside": "effective samples inside a basin; below 10 its error bar is not to be trusted",
    "end to end, rg": (
        "distance between the two heavy atoms with the most bonds between them, and radius of gyration; nm"
    ),
    "energy cut": "energy above which training, and only training, counts energies logarithmically",
    "energy evaluations": "structures whose energy was calculated, its gradient included in the same count",
    "ESS": (
        "Kish's effective sample size, (Σw)²/Σw²: number of equally weighted independent structures of the same "
        "precision. It sees only what the flow samples"
    ),
    "floor": "the reference's own noise: how far two halves of it differ",
    "flow": "normalizing flow: the density q that can be sampled and evaluated; in tables, the samples drawn from it",
    "fold (3-fold)": (
        "turning by a third (or half) of a circle only exchanges equal atoms (methyl, phenyl): such a torsion is "
        "compared as 3 (or 2) times its angle, which does not see that"
    ),
    "held": "what coordinates keep as in the given structure: isomers, stereocentres, puckers, constrained lengths",
    "independent estimate": "the same quantity from Markov chains with the flow's proposals, which have no weights",
    "invalid": "samples without a finite energy; weight zero, still counted in n",
    "iteration": "one pass of samples into the buffer, then the gradient steps on what it draws",
    "JS, KL, TV": (
        "Jensen–Shannon divergence, Kullback–Leibler divergence (nats) and total variation (0 to 1) between two "
        "histograms"
    ),
    "k-hat": "shape of the tail of the weights: below 0.5 reliable, to 0.7 errors are underrated, above it do not use",
    "kT": "thermal energy; 2.494 kJ/mol at 300 K",
    "lambda, λ": (
        "position on the annealed path, 0 at the flow and 1 at its end; in alchemical Systems, a global parameter "
        "of the force field; lam of metrics and of the phases is the power that weights are raised to"
    ),
    "level": (
        "of a flow of several temperatures: the estimate of log Z at each that training takes from log p, so that "
        "all weigh alike"
    ),
    "lifted": (
        "a rare basin's density is raised in training by a bias, so that its shape is learned; weights are towards "
        "the unbiased density"
    ),
    "log Z": (
        "logarithm of the configurational integral per unit volume and orientation; minus the absolute free energy "
        "in kT"
    ),
    "lost basins": "torsional basins that the buffer holds and the flow does not draw",
    "narrow": "a torsion that does not turn: it is stiff, like lengths and angles",
    "no tail": "k-hat of weights whose largest are all equal, as of plain MD",
    "no verdict": "too few effective samples, or a k-hat too high, to say whether two sides agree",
    "outside": (
        "share of samples (outside), of weight (outside_weight) or of annealed weight (annealed_outside) beyond the"
        " splines' range"
    ),
    "overlap": (
        "0 to 1: how much two states share, from the overlap matrix of MBAR; below 0.06 differences are not to be "
        "trusted"
    ),
    "pass": "one batch of samples, annealed or plain, that goes into the buffer",
    "PC1, PC2": "the first two principal components of the cosines and sines of the reference's torsions",
    "periodic, stiff": "coordinates of z: a torsion that turns is periodic; lengths, angles and all else is stiff",
    "phase": (
        "stage of the start of a training: apart, joint, weights, then fab; one sample costs one energy before fab"
    ),
    "preset": "named settings for a machine: smoke, laptop, gpu",
    "raw": "of the weights as they are, not clipped",
    "reference": "an independent ensemble to compare with, usually MD of the same System at the same temperature",
    "reweighted, unweighted, unw.": "the flow's samples with and without their importance weights",
    "rms, max ΔF": (
        "root mean square and largest difference of two profiles along a torsion, over bins in which the reference "
        "has F below 5 kT"
    ),
    "rotor, sector": (
        "a group of equivalent atoms (methyl, NH₃⁺) and the part of its circle that is sampled; log Z counts all"
    ),
    "rule of three": "bound 3/n at 95 % for the share of what n samples never showed",
    "set-up": "coordinates, scans of bonds and compiling before the first iteration; not part of the budget",
    "spent": "share of the training budget that is used up",
    "splines' range": "±5 units of every stiff coordinate, within which the flow shapes the density",
    "strain": "−ln of the population of the conformer that a pose is in, kT",
    "top 0.0001 clipped": "the same as clipped",
    "trusted": "k-hat at most 0.7 and ESS at least 100",
    "turning, kept": (
        "torsions that the coordinates let turn, by name; bonds, stereocentres, nitrogens and rings that stay as in"
        " the given structure"
    ),
    "u": "reduced energy U/kT",
    "walkers": "many copies of a molecule that MD moves at once",
    "weights": "importance weights exp(−u)/q of the flow's samples; log_w is their logarithm, in nats",
    "z (coordinates)": "internal coordinates, scaled: what the flow sees",
    "z (tables)": "difference of two estimates over their combined error: below 2 they agree, above 3 they do not",
}
