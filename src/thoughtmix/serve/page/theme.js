// Before anything is drawn: the chosen theme, if one was chosen. Classic and small, because modules come too late.
try {
  const theme = localStorage.getItem("thoughtmix.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // storage may be forbidden: then the system's theme holds
}
