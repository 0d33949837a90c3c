"""The data of the five tasks, the same for each framework. There is nothing to download."""

import numpy as np
from sklearn import datasets

VOCABULARY = 100


def tabular():
    """Scikit-learn's breast cancer: training, validation and test, each as 30 features and 1 for malignant, else 0."""
    features, benign = datasets.load_breast_cancer(return_X_y=True)
    mean, deviation = np.mean(features[:350], axis=0), np.std(features[:350], axis=0)
    features = ((features - mean) / deviation).astype(np.float32)
    labels = (1 - benign).astype(np.int32)
    return [(features[part], labels[part]) for part in (slice(350), slice(350, 450), slice(450, None))]


def texts(count=1000, validation=200):
    """Made texts of 3 to 60 tokens, from 1 on: is token 1 in it more often than token 2? Training and validation."""
    random = np.random.default_rng(0)
    samples = []
    for _ in range(count + validation):
        label = int(random.integers(2))
        tokens = random.integers(3, VOCABULARY, random.integers(3, 61))
        places = random.permutation(len(tokens))[:3]  # of three places, two are of the class
        tokens[places] = [1, 1, 2] if label else [2, 2, 1]
        samples.append((tokens.astype(np.int32), np.int32(label)))
    return samples[:count], samples[count:]


def digits():
    """Scikit-learn's digits: training and validation, each as float32[n, 64] and the digit."""
    images, labels = datasets.load_digits(return_X_y=True)
    images, labels = (images / 16).astype(np.float32), labels.astype(np.int32)
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


def old_and_new_digits(new=100):
    """Digits from 0 to 4 to learn from first; then few from 5 to 9, as classes from 0; and many of those to test on."""
    (images, labels), (test_images, test_labels) = digits()
    old, later, test = labels < 5, np.flatnonzero(labels >= 5)[:new], test_labels >= 5
    return (images[old], labels[old]), (images[later], labels[later] - 5), (test_images[test], test_labels[test] - 5)
