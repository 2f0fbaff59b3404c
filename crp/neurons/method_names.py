"""The names of rankings, for whoever offers them without importing what they are made with."""
OF_ONE_MODEL = (
    "relevance", "activation", "variance", "mean_distance", "anova", "probeless", "average_precision",
    "mutual_information", "probe", "gaussian", "random",
)
