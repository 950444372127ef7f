// Before anything is painted: the theme that was chosen here earlier.
const chosen = localStorage.getItem("headrace-theme");
if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
